//! `meshd docker`: whether the daemon is Docker's driver, and what Docker made by it.

use super::args::DockerCommand;
use super::remote::Ask;
use super::{Failure, Printed, show};
use crate::docker::{Settings, Status, Tidied};
use meshd_core::code::ErrorCode;

/// Docker's ids as its own command line shows them.
const SHORT: usize = 12;

pub(super) async fn run(ask: &Ask, command: DockerCommand) -> Result<Printed, Failure> {
    match command {
        DockerCommand::Enable { plugin, engine } => {
            let settings = Settings {
                socket: std::path::absolute(&plugin)
                    .map_err(|error| Failure::new(ErrorCode::FileUnreadable, error))?,
                engine: std::path::absolute(&engine)
                    .map_err(|error| Failure::new(ErrorCode::FileUnreadable, error))?,
            };
            let status: Status = ask.client.put("/v1/docker", &settings).await?;
            ask.made(&status, table)
        }
        DockerCommand::Disable => {
            ask.client.delete("/v1/docker").await?;
            let sentence = "the Docker driver is not served any more".to_owned();
            ask.done("disabled", "docker", sentence)
        }
        DockerCommand::Tidy => {
            let tidied: Tidied = ask.client.post("/v1/docker/tidy", &()).await?;
            ask.made(&tidied, |tidied| {
                format!(
                    "removed: {} networks, {} endpoints, {} addresses\n",
                    tidied.networks.len(),
                    tidied.endpoints.len(),
                    tidied.addresses.len()
                )
            })
        }
        DockerCommand::Status => ask.view("/v1/docker", table).await,
    }
}

fn short(id: &str) -> String {
    id.get(..SHORT).unwrap_or(id).to_owned()
}

fn table(status: &Status) -> String {
    let (Some(settings), Some(driver)) = (&status.settings, &status.driver) else {
        return "not enabled; `meshd docker enable` makes this node a driver of Docker\n"
            .to_owned();
    };
    let served = status.problem.as_ref().map_or_else(
        || format!("served at {}", settings.socket.display()),
        |problem| format!("NOT served: {problem}"),
    );
    let engine = match (&status.engine, &status.engine_problem) {
        (Some(version), _) => format!("Docker {version} at {}", settings.engine.display()),
        (None, problem) => format!(
            "does not answer: {}; containers get no names",
            problem.as_deref().unwrap_or("unknown why")
        ),
    };
    let mut out = show::facts(&[
        ("driver", driver.clone()),
        ("socket", served),
        ("engine", engine),
    ]);
    let rows = status.networks.iter().map(|network| {
        let egress = if network.egress { "yes" } else { "no" };
        vec![
            short(&network.id),
            network.network.clone(),
            egress.to_owned(),
            network.endpoints.to_string(),
        ]
    });
    let empty = "no networks; `docker network create -d meshd` makes one";
    out.push('\n');
    out += &show::table(
        &["DOCKER NETWORK", "NETWORK", "EGRESS", "ENDPOINTS"],
        rows,
        empty,
    );
    if status.endpoints.is_empty() {
        return out;
    }
    let rows = status.endpoints.iter().map(|endpoint| {
        let ips: Vec<String> = endpoint
            .ips
            .iter()
            .map(|ip| ip.addr().to_string())
            .collect();
        vec![
            short(&endpoint.id),
            short(&endpoint.network_id),
            endpoint
                .port
                .map_or_else(|| "-".to_owned(), |port| port.to_string()),
            endpoint
                .name
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            ips.join(", "),
            endpoint.mac.to_string(),
        ]
    });
    let header = [
        "ENDPOINT",
        "DOCKER NETWORK",
        "PORT",
        "NAME",
        "ADDRESSES",
        "MAC",
    ];
    out.push('\n');
    out + &show::table(&header, rows, "")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_not_served_says_why_and_one_that_is_off_how_to_switch_it_on() {
        let mut status = Status {
            enabled: false,
            driver: None,
            settings: None,
            problem: None,
            engine: None,
            engine_problem: None,
            networks: Vec::new(),
            endpoints: Vec::new(),
        };
        assert!(table(&status).contains("meshd docker enable"));
        status.driver = Some("meshd".to_owned());
        status.settings = Some(Settings {
            socket: "/run/docker/plugins/meshd.sock".into(),
            engine: "/var/run/docker.sock".into(),
        });
        status.problem = Some("it is a folder".to_owned());
        let text = table(&status);
        assert!(
            text.contains("NOT served: it is a folder") && text.contains("does not answer"),
            "{text}"
        );
    }
}
