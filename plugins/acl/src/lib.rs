//! Access list. The first rule that matches decides; where none does, `default` does.
//!
//! ```json
//! { "deny":  [ { "proto": "tcp", "port": 22, "src": "10.0.0.0/24" } ],
//!   "rules": [ { "allow": { "proto": "udp", "port": "53" } }, { "deny": { "proto": "udp" } } ],
//!   "default": "pass" }
//! ```
//!
//! `deny` stands before `rules`. Rules are numbered from 1 in that order, and a refusal bears the number of its rule, or
//! the name `default`. `default` speaks of everything but ARP and neighbour discovery, which pass unless a rule names them. The
//! list is without state: who allows a service with `"default": "drop"` allows its answers by `src-port`.
//!
//! A frame that could hide what a rule asks for (a TCP or UDP header cut off before its ports) counts as a match for a
//! rule that denies and as none for a rule that allows. Later fragments bear no ports: rules with ports pass them by,
//! since without its first fragment a packet is never put together.

use meshd_sdk::prelude::*;
use meshd_sdk::rules::{Match, RULES_MAX, Rule, Rules};

/// An access list without state: the first rule that matches decides.
#[derive(Debug, Config)]
struct Acl {
    /// What is refused, before anything else is looked at.
    #[config(default = [])]
    deny: Vec<Match>,
    /// Then these, in their order.
    #[config(default = [])]
    rules: Vec<Rule>,
    /// What holds where no rule matches, except for ARP and neighbour discovery.
    #[config(default = "pass")]
    default: Default,
    /// Both lists in their order: one is quicker to search than two.
    #[config(skip)]
    all: Rules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
enum Default {
    /// It passes.
    Pass,
    /// It is refused.
    Drop,
}

/// For the manifest.
const MAX_RULES: u16 = RULES_MAX as u16;

#[policy(stage = "guard", fail = "closed", rules = MAX_RULES)]
impl Policy for Acl {
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        for (i, one) in self.deny.iter().enumerate() {
            let fault = one.fault();
            errors.extend(fault.map(|fault| ConfigError::new(format!("/deny/{i}"), fault)));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            errors.extend(rule.fault(&format!("/rules/{i}")));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let denied = self.deny.iter().cloned().map(Rule::Deny);
        self.all = Rules::new("", denied.chain(self.rules.iter().cloned()).collect())?;
        Ok(())
    }

    fn decide(&self, key: &Key) -> Verdict {
        match (self.all.first(key), self.default) {
            (Some((_, Rule::Allow(_))), _) | (None, Default::Pass) => next(),
            (Some((number, Rule::Deny(_))), _) => drop(number),
            (None, Default::Drop) if key.is_neighbor() => next(),
            (None, Default::Drop) => drop("default"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_sdk::test::{Host, Packet, configured, pkt};

    fn acl(config: &str) -> Host<Acl> {
        configured(config).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    #[test]
    fn a_denied_port_is_refused_and_the_rest_passes_under_a_wide_mask() {
        let acl = acl(r#"{"deny":[{"proto":"tcp","port":22}]}"#);
        acl.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:22 syn))
            .drops(1)
            .reads("ip-kind ip-proto frag l4-ok dst-port");
        acl.send(pkt!(tcp [fd00::1]:4000 > [fd00::2]:22 syn))
            .drops(1);
        acl.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:80 syn))
            .passes()
            .reads("ip-kind ip-proto frag l4-ok dst-port/0xffc0");
        acl.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:22))
            .passes()
            .reads("ip-kind ip-proto");
        acl.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1))
            .passes()
            .reads("ip-kind");
        acl.sound(20_000);
    }

    #[test]
    fn a_list_is_no_config_and_allows_nothing_by_being_empty() {
        for wrong in ["[]", " [[]]", "[[],[],\"pass\"]"] {
            assert!(configured::<Acl>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_match_decides_and_its_number_is_told() {
        let acl = acl(r#"{"deny":[{"proto":"icmp","src":"10.0.0.66"}],
            "rules":[{"allow":{"proto":"udp","port":53}},{"deny":{"proto":"udp","dst":"10.0.0.0/24"}},{"allow":{"proto":"tcp","port":"8000-8099"}}],
            "default":"drop"}"#);
        acl.send(pkt!(icmp 10.0.0.66 > 10.0.0.2)).drops(1);
        acl.send(pkt!(icmp 10.0.0.67 > 10.0.0.2)).drops("default");
        acl.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:53)).passes();
        acl.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:54)).drops(3);
        acl.send(pkt!(udp 10.0.0.1:4000 > 10.0.1.2:54))
            .drops("default");
        acl.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:8099 syn))
            .passes();
        acl.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:8100 syn))
            .drops("default");
        acl.send(pkt!(ether 0x88cc)).drops("default");
        acl.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)).passes();
        acl.sound(50_000);
    }

    #[test]
    fn a_header_that_hides_its_ports_is_taken_for_the_denied_one_and_not_for_the_allowed_one() {
        let ssh = |words: &str| -> Packet { pkt!("tcp 10.0.0.1:4000 > 10.0.0.2:22 syn {words}") };
        let deny = acl(r#"{"deny":[{"proto":"tcp","port":22}]}"#);
        deny.send(ssh("first-fragment")).drops(1);
        deny.send(ssh("first-fragment cut")).drops(1);
        deny.send(ssh("cut")).drops(1);
        deny.send(ssh("later-fragment")).passes();
        deny.sound(20_000);
        let allow = acl(r#"{"rules":[{"allow":{"proto":"tcp","port":22}}],"default":"drop"}"#);
        allow.send(ssh("")).passes();
        allow.send(ssh("cut")).drops("default");
        allow.sound(20_000);
    }

    #[test]
    fn a_recording_of_an_office_is_decided_as_before() {
        let acl = acl(include_str!("../example.json"));
        acl.replay("../../sdk/testdata/office.pcap")
            .matches("testdata/office.golden");
        acl.sound(20_000);
    }

    #[test]
    fn arp_and_other_protocols_can_be_named() {
        let acl = acl(r#"{"deny":[{"proto":"arp","dst":"10.0.0.2"},{"proto":47}]}"#);
        acl.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)).drops(1);
        acl.send(pkt!(arp who-has 10.0.0.3 tell 10.0.0.1)).passes();
        acl.send(pkt!(tcp 10.0.0.1:1 > 10.0.0.2:2 syn)).passes();
        acl.sound(20_000);
    }

    #[test]
    fn a_wrong_config_is_refused_with_its_place() {
        let at = |config: &str| configured::<Acl>(config).err().unwrap().remove(0);
        assert_eq!(
            at(r#"{"deny":[{"proto":"tcp","port":70000}]}"#).pointer,
            "/deny/0/port"
        );
        assert_eq!(
            at(r#"{"deny":[{"proto":"tcp","port":"30-20"}]}"#).pointer,
            "/deny/0/port"
        );
        assert_eq!(
            at(r#"{"deny":[{},{"src":"10.0.0.1/24"}]}"#).pointer,
            "/deny/1/src"
        );
        assert_eq!(
            at(r#"{"deny":[{"proto":"icmp","port":22}]}"#),
            ConfigError::new("/deny/0", "a port needs \"proto\": tcp, udp or sctp")
        );
        assert_eq!(at(r#"{"dany":[]}"#).pointer, "/dany");
        assert_eq!(at(r#"{"default":"maybe"}"#).pointer, "/default");
        assert!(at("{").message.contains("line 1, column 2"));
        let many = format!(r#"{{"deny":[{}{{}}]}}"#, "{},".repeat(MAX_RULES.into()));
        assert!(at(&many).message.contains("at most 1024"));
    }
}
