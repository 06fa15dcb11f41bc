//! Refuses connections to one TCP port.

use meshd_sdk::prelude::*;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoTelnet {
    port: u16,
}

impl Policy for NoTelnet {
    fn decide(&self, key: &Key<'_>) -> Verdict {
        if key.is_tcp() && key.dst_port() == self.port {
            drop(1)
        } else {
            next()
        }
    }
}

export_policy!(NoTelnet);

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_sdk::test::{arp, host, tcp};

    #[test]
    fn telnet_is_refused_and_the_mask_stays_wide() {
        let host = host(NoTelnet { port: 23 });
        host.send(tcp("10.0.0.1:4000", "10.0.0.2:23"))
            .drops(1)
            .reads("ip-kind ip-proto l4-ok dst-port");
        host.send(arp("10.0.0.1", "10.0.0.2"))
            .passes()
            .reads("ip-kind");
        host.sound(10_000);
    }
}
