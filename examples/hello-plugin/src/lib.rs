//! Refuses connections to one TCP port.

use meshd_sdk::prelude::*;

#[derive(Config)]
/// Refuse connections to one TCP port.
struct NoTelnet {
    #[config(default = 23)]
    port: u16,
}

#[policy(stage = "guard", fail = "closed")]
impl Policy for NoTelnet {
    fn decide(&self, key: &Key) -> Verdict {
        if key.is_tcp() && key.dst_port() == self.port {
            drop("telnet")
        } else {
            next()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_sdk::test::{host, pkt};

    #[test]
    fn telnet_is_refused_and_the_mask_stays_wide() {
        let p = host(NoTelnet { port: 23 });
        p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:23 syn))
            .drops("telnet")
            .reads("ip-kind ip-proto l4-ok dst-port");
        p.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1))
            .passes()
            .reads("ip-kind");
        p.replay("testdata/office.pcap")
            .matches("testdata/office.golden");
        p.sound(10_000);
    }
}
