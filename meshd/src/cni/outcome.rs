//! What a plugin prints when it is done: the result of the CNI specification, in the version that was asked for.
//!
//! Owns the result's shape. What a plugin before this one in the chain has made stays in it as it was.

use super::config::{Config, Dns, Version};
use super::error::{CniError, Code, error};
use meshd_core::command::PortRoute;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// What ADD made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) ifname: String,
    pub(super) mac: String,
    pub(super) mtu: Option<u16>,
    pub(super) netns: String,
    pub(super) ips: Vec<ipnet::IpNet>,
    pub(super) routes: Vec<PortRoute>,
    pub(super) dns: Dns,
}

impl Made {
    /// The result, with `config.prev` in it.
    pub(super) fn result(&self, config: &Config) -> Result<Value, CniError> {
        let mut result = config.prev.clone().unwrap_or_default();
        let version = config.version;
        result.insert("cniVersion".to_owned(), json!(version.text()));
        let mut interface = json!({
            "name": self.ifname,
            "mac": self.mac,
            "sandbox": self.netns,
        });
        if let (Some(mtu), true) = (self.mtu, version >= Version::V1_1) {
            interface["mtu"] = json!(mtu);
        }
        let interfaces = list(&mut result, "interfaces")?;
        let index = interfaces.len();
        interfaces.push(interface);
        let ips = list(&mut result, "ips")?;
        for net in &self.ips {
            let mut ip = json!({ "address": net.to_string(), "interface": index });
            if version < Version::V1_0 {
                ip["version"] = json!(if net.addr().is_ipv4() { "4" } else { "6" });
            }
            if let Some(gateway) = self.gateway(net.addr()) {
                ip["gateway"] = json!(gateway);
            }
            ips.push(ip);
        }
        let routes = list(&mut result, "routes")?;
        for route in &self.routes {
            routes.push(match route.via {
                Some(via) => json!({ "dst": route.to.to_string(), "gw": via }),
                None => json!({ "dst": route.to.to_string() }),
            });
        }
        add_dns(&mut result, &self.dns);
        Ok(Value::Object(result))
    }

    /// The router that the interface uses in the family of `ip`.
    fn gateway(&self, ip: IpAddr) -> Option<IpAddr> {
        let via = self.routes.iter().filter_map(|route| route.via);
        via.into_iter().find(|via| via.is_ipv4() == ip.is_ipv4())
    }
}

fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, CniError> {
    let value = result.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value
        .as_array_mut()
        .ok_or_else(|| error(Code::Decode, format!("prevResult: \"{key}\" is no list")))
}

/// Ours behind those of a plugin before, whose domain stays.
fn add_dns(result: &mut Map<String, Value>, ours: &Dns) {
    let before = result.get("dns").cloned().unwrap_or_default();
    let mut dns: Dns = serde_json::from_value(before).unwrap_or_default();
    let join = |all: &mut Vec<String>, more: &[String]| {
        for text in more {
            if !all.contains(text) {
                all.push(text.clone());
            }
        }
    };
    join(&mut dns.nameservers, &ours.nameservers);
    join(&mut dns.search, &ours.search);
    join(&mut dns.options, &ours.options);
    if dns.domain.is_none() {
        dns.domain.clone_from(&ours.domain);
    }
    result.insert("dns".to_owned(), json!(dns));
}

/// The addresses that a result gives to the interface of this name in a container.
pub(super) fn addresses_of(result: &Map<String, Value>, ifname: &str) -> Vec<ipnet::IpNet> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let ours = |index: u64| {
        let at = usize::try_from(index).ok()?;
        let interface = interfaces?.get(at)?;
        let inside = !interface["sandbox"].as_str().unwrap_or_default().is_empty();
        (inside && interface["name"] == ifname).then_some(())
    };
    let ips = result.get("ips").and_then(Value::as_array);
    ips.into_iter()
        .flatten()
        .filter(|ip| {
            ip["interface"]
                .as_u64()
                .is_some_and(|index| ours(index).is_some())
        })
        .filter_map(|ip| ip["address"].as_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::config::object;
    use super::super::request::Args;
    use super::*;

    fn config(version: &str, prev: Option<Value>) -> Config {
        let mut conf = json!({"cniVersion": version, "name": "lan", "type": "meshd-cni"});
        if let Some(prev) = prev {
            conf["prevResult"] = prev;
        }
        let raw = conf.to_string().into_bytes();
        let (map, version) = object(&raw).unwrap();
        Config::read(map, version, &Args::default(), raw).unwrap()
    }

    fn made() -> Made {
        Made {
            ifname: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            mtu: Some(1450),
            netns: "/run/netns/x".to_owned(),
            ips: vec![
                "10.0.0.2/24".parse().unwrap(),
                "fd00::2/64".parse().unwrap(),
            ],
            routes: vec![PortRoute {
                to: "0.0.0.0/0".parse().unwrap(),
                via: Some("10.0.0.9".parse().unwrap()),
            }],
            dns: Dns {
                nameservers: vec!["10.0.0.1".to_owned()],
                search: vec!["lan.mesh.internal".to_owned()],
                ..Dns::default()
            },
        }
    }

    #[test]
    fn each_version_has_its_own_shape() {
        let old = made().result(&config("0.4.0", None)).unwrap();
        assert_eq!(
            old["ips"][0],
            json!({"version": "4", "address": "10.0.0.2/24", "interface": 0, "gateway": "10.0.0.9"})
        );
        assert_eq!(old["ips"][1]["version"], "6");
        let new = made().result(&config("1.1.0", None)).unwrap();
        assert_eq!(
            new,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/x"}],
                "ips": [
                    {"address": "10.0.0.2/24", "interface": 0, "gateway": "10.0.0.9"},
                    {"address": "fd00::2/64", "interface": 0},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.9"}],
                "dns": {"nameservers": ["10.0.0.1"], "search": ["lan.mesh.internal"]},
            })
        );
        assert!(made().result(&config("1.0.0", None)).unwrap()["interfaces"][0]["mtu"].is_null());
    }

    #[test]
    fn what_a_plugin_before_made_stays_in_the_result() {
        let prev = json!({
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "10.9.0.2/24", "interface": 1}],
            "dns": {"nameservers": ["9.9.9.9"]}, "other": 7,
        });
        let mut ours = made();
        ours.ifname = "mesh0".to_owned();
        let result = ours.result(&config("1.0.0", Some(prev))).unwrap();
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["nameservers"], json!(["9.9.9.9", "10.0.0.1"]));
        assert_eq!(result["other"], 7);
        let map = result.as_object().unwrap();
        assert_eq!(addresses_of(map, "mesh0"), ours.ips);
        assert_eq!(addresses_of(map, "eth0"), ["10.9.0.2/24".parse().unwrap()]);
        let odd = config("1.0.0", Some(json!({"ips": 5})));
        assert!(made().result(&odd).unwrap_err().is(Code::Decode));
    }
}
