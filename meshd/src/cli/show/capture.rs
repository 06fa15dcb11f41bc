//! A captured frame on one line.

use super::clean;
use meshd_core::capture::Way;
use meshd_core::view::CapturedFrame;

/// `12:30:01.123456 lan port 3 (web.lan) > tcp 10.0.0.1:1 > 10.0.0.2:22 syn, 74 bytes: forwarded to …`.
pub(in crate::cli) fn captured(frame: &CapturedFrame) -> String {
    let (seconds, micros) = (frame.at_ns / 1_000_000_000, frame.at_ns / 1000 % 1_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    let way = match frame.way {
        Way::In => "in ",
        Way::Out => "out",
    };
    clean(&format!(
        "{hours:02}:{minutes:02}:{:02}.{micros:06} {way} {} on {}: {}, {} bytes: {}",
        seconds % 60,
        frame.place,
        frame.network,
        frame
            .flow
            .as_deref()
            .unwrap_or("a frame that cannot be read"),
        frame.length,
        frame.verdict,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_line_whatever_its_names_are() {
        let frame = CapturedFrame {
            at_ns: 1_000_000_000 * (3600 * 13 + 61) + 5000,
            network: "lan".to_owned(),
            place: "port 3 (a\u{7}b)".to_owned(),
            way: Way::In,
            flow: None,
            verdict: "dropped: malformed".to_owned(),
            drop: None,
            length: 9,
            frames: 1,
        };
        assert_eq!(
            captured(&frame),
            "13:01:01.000005 in  port 3 (a\\u{7}b) on lan: a frame that cannot be read, 9 bytes: dropped: malformed"
        );
    }
}
