//! The port of an attachment, asked of the daemon: under another name if the one that was made up is taken.
//!
//! ```text
//!   POST name --refused: conflict--> POST name beside it --refused: conflict--> the first refusal: it is of what was asked for
//!                                                        --anything else------> that: the second may have been made
//! ```
//!
//! Refuses to hide that it is unknown whether a port was made: who is told so takes it back, unless it is another ADD's.

use super::naming;
use super::request::Attachment;
use crate::api::client::{Client, ClientError};
use crate::api::requests::AttachWish;
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::ident::{Label, WallTime};
use meshd_core::view;

/// Attaches.
///
/// # Errors
/// What the daemon says of it, or why it says nothing.
pub(super) async fn attach(
    client: &Client,
    wish: &AttachWish,
    attachment: &Attachment,
) -> Result<view::Port, ClientError> {
    let first = match client.post("/v1/ports", wish).await {
        Err(ClientError::Refused(refusal)) if refusal.kind == RefusalKind::Conflict => refusal,
        other => return other,
    };
    // A container that went without a DEL may still have the name, here or on a node that is gone.
    let beside = wish
        .name
        .as_ref()
        .and_then(|name| naming::endpoint_beside(name, attachment));
    let again = AttachWish {
        name: beside,
        ..wish.clone()
    };
    match client.post::<view::Port>("/v1/ports", &again).await {
        Ok(port) => {
            let name = port.name.as_ref().map_or("", Label::as_str);
            eprintln!("meshd-cni: named {name}: {}", first.message);
            Ok(port)
        }
        // It was not the name.
        Err(ClientError::Refused(second)) if second.kind == RefusalKind::Conflict => {
            Err(ClientError::Refused(first))
        }
        other => other,
    }
}

/// Is it unknown whether the daemon makes the port, or has? Who was refused for another reason has none by this, and what is
/// there is somebody else's: of an ADD before, or at the same time.
fn may_be_made(cause: &ClientError) -> bool {
    match cause {
        ClientError::Broken { .. } | ClientError::Stuck { .. } => true,
        ClientError::Refused(refusal) => refusal.code == ErrorCode::AnswerLate,
        ClientError::NoDaemon { .. } | ClientError::Forbidden { .. } => false,
    }
}

/// Says the daemon that the port is not there? What it cannot find otherwise, or says in words of a later release, is no answer
/// to that.
pub(super) fn is_absent(cause: &ClientError) -> bool {
    matches!(cause, ClientError::Refused(refusal) if refusal.code == ErrorCode::PortUnknown)
}

/// What an ADD that failed leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// No port: its addresses go back.
    Nothing,
    /// Perhaps a port of its own, which goes first.
    Own,
    /// A port that is another ADD's, with its addresses.
    Others,
}

/// What is left after `cause`. `since`: when the owner's port was claimed, if it has one; `begun`: when this ADD began.
pub(super) fn left(cause: &ClientError, since: Option<WallTime>, begun: WallTime) -> Left {
    match since {
        Some(since) if since < begun => Left::Others,
        _ if may_be_made(cause) => Left::Own,
        Some(_) => Left::Others,
        None => Left::Nothing,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::requests::ByteInput;
    use meshd_core::command::IpSpec;
    use meshd_core::kind::PortKind;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn refusal(status: &str, code: &str, message: &str) -> String {
        let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\"}}");
        let len = body.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
        )
    }

    /// Asks a daemon that gives these answers, one a connection.
    async fn told(answers: Vec<String>) -> ClientError {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 4096];
                assert!(stream.read(&mut asked).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let attachment = Attachment {
            container: "1a2b".to_owned(),
            ifname: "eth0".to_owned(),
        };
        let wish = AttachWish {
            network: "lan".to_owned(),
            netns: Some(ByteInput::of(b"/run/netns/x")),
            ifname: ByteInput::of(b"eth0"),
            ip: IpSpec::Auto,
            mac: None,
            name: "web".parse().ok(),
            labels: [].into(),
            mtu: None,
            routes: Vec::new(),
            vrf: None,
            owner: "cni/lan/1a2b/eth0".parse().ok(),
            kind: PortKind::Veth,
        };
        let told = attach(&Client::new(&path), &wish, &attachment).await;
        daemon.join().unwrap();
        told.unwrap_err()
    }

    #[tokio::test]
    async fn a_conflict_under_both_names_is_told_as_of_the_first() {
        let first = refusal("409 Conflict", "name-taken", "address 10.0.0.5 is used");
        let second = refusal("409 Conflict", "name-taken", "and again");
        match told(vec![first, second]).await {
            ClientError::Refused(refusal) => assert!(refusal.message.contains("10.0.0.5")),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_port_that_a_del_took_away_meanwhile_is_not_asked_for_under_another_name() {
        // One answer only: a second question would wait for ever.
        let gone = refusal(
            "503 Service Unavailable",
            "port-withdrawn",
            "port 7 was removed",
        );
        let gone = told(vec![gone]).await;
        assert!(!may_be_made(&gone) && gone.to_string().contains("port 7"));
    }

    #[tokio::test]
    async fn a_second_try_that_breaks_off_or_comes_to_nothing_yet_is_told_as_it_is() {
        let first = || refusal("409 Conflict", "name-taken", "name web is used");
        let broken = told(vec![first(), String::new()]).await;
        assert!(matches!(broken, ClientError::Broken { .. }), "{broken:?}");
        assert!(may_be_made(&broken), "so the port is taken back");
        let busy = refusal(
            "503 Service Unavailable",
            "port-withdrawn",
            "detached meanwhile",
        );
        let busy = told(vec![first(), busy]).await;
        match &busy {
            ClientError::Refused(refusal) => assert!(refusal.message.contains("meanwhile")),
            other => panic!("{other:?}"),
        }
        assert!(!may_be_made(&busy), "it is gone");
        let late = refusal("503 Service Unavailable", "answer-late", "it goes on");
        assert!(may_be_made(&told(vec![first(), late]).await));
        let wrong = refusal("400 Bad Request", "address-invalid", "no such network");
        let wrong = told(vec![first(), wrong]).await;
        assert!(!may_be_made(&wrong));
        assert!(wrong.to_string().contains("no such network"));
    }

    #[tokio::test]
    async fn an_add_that_is_refused_leaves_the_port_of_another_alone() {
        let busy = refusal("503 Service Unavailable", "port-busy", "waited for by many");
        let busy = told(vec![busy]).await;
        let broken = told(vec![String::new()]).await;
        let at = WallTime;
        assert_eq!(left(&busy, None, at(7)), Left::Nothing);
        assert_eq!(left(&busy, Some(at(6)), at(7)), Left::Others);
        assert_eq!(left(&busy, Some(at(8)), at(7)), Left::Others);
        assert_eq!(left(&broken, None, at(7)), Left::Own);
        assert_eq!(left(&broken, Some(at(6)), at(7)), Left::Others);
        assert_eq!(left(&broken, Some(at(8)), at(7)), Left::Own);
    }

    #[tokio::test]
    async fn only_the_word_for_a_port_that_is_not_there_says_that_it_is_not_there() {
        let told = |status: &str, code: &str| told(vec![refusal(status, code, "no")]);
        assert!(is_absent(&told("404 Not Found", "port-unknown").await));
        assert!(!is_absent(&told("404 Not Found", "path-unknown").await));
        let later = told("503 Service Unavailable", "sunspots").await;
        assert!(!is_absent(&later));
        assert!(
            matches!(&later, ClientError::Refused(told) if told.kind == RefusalKind::Unavailable)
        );
        // As releases before this one say it where there is no place for one more connection.
        let full = told("503 Service Unavailable", "unavailable").await;
        assert!(!is_absent(&full));
    }
}
