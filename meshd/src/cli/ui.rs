//! `meshd ui`.

use super::args::Common;
use super::{Failure, Printed, show};
use crate::api::client::Client;
use crate::ui::Page;
use meshd_core::code::ErrorCode;

/// Serves the page until the process is told to end.
pub(super) async fn run(common: &Common, port: u16) -> Result<Printed, Failure> {
    let client = Client::new(&common.socket);
    // Whoever cannot read the status would see an empty page.
    client.get::<meshd_core::view::Status>("/v1/status").await?;
    let page = Page::bind(port).await.map_err(|error| {
        let failure = Failure::new(
            ErrorCode::ApiPortTaken,
            format!("the page cannot be served at 127.0.0.1:{port}: {error}"),
        );
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                failure.hint("another `meshd ui` runs, perhaps; `--port 0` takes a free port")
            }
            _ => failure,
        }
    })?;
    let told = if common.json {
        show::json(&serde_json::json!({ "url": page.url() }))
    } else {
        format!(
            "{}\n\nOpen this address in a browser on this host. It holds a token: whoever has it can read what the page shows, until\nthis command ends (Ctrl-C). From another host: ssh -L 7652:{} HOST",
            page.url(),
            page.address()
        )
    };
    super::print(&told).map_err(|error| super::unwritten(&error))?;
    page.serve(client).await;
    Printed::text("")
}
