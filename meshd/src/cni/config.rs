//! The network configuration that a runtime gives on stdin.
//!
//! Owns its keys and their meaning; `docs/howto/cni.md` describes them. A key that is not known is refused: a misspelt wish
//! must not be silently another wish. Keys that begin with `cni.dev/` are the specification's.

use super::error::{CniError, Code, clean, error};
use super::request::{Args, is_ifname, is_word};
use super::router;
use ipnet::IpNet;
use meshd_core::command::{IpSpec, PortRoute};
use meshd_core::ident::MacAddr;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// What this plugin speaks, oldest first.
pub(super) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version that this plugin speaks, by its place in [`VERSIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(usize);

impl Version {
    pub(super) const NEWEST: Self = Self(4);
    pub(super) const V0_4: Self = Self(2);
    pub(super) const V1_0: Self = Self(3);
    pub(super) const V1_1: Self = Self(4);

    pub(super) fn text(self) -> &'static str {
        VERSIONS.get(self.0).copied().unwrap_or_default()
    }

    pub(super) fn find(text: &str) -> Option<Self> {
        VERSIONS.iter().position(|known| *known == text).map(Self)
    }
}

/// A route, as CNI has it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Route {
    pub(super) dst: IpNet,
    #[serde(default)]
    pub(super) gw: Option<IpAddr>,
}

/// An entry of `routes` as it is given, so that what is wrong with it can be shown.
#[derive(Deserialize)]
struct GivenRoute {
    dst: String,
    #[serde(default)]
    gw: Option<String>,
}

impl GivenRoute {
    fn read(&self) -> Result<Route, CniError> {
        let wrong = |field: &str, text: &str, wanted: &str| {
            let shown: String = clean(text).chars().take(64).collect();
            error(
                Code::Decode,
                format!(
                    "network configuration, \"routes\": \"{field}\": \"{shown}\" is no {wanted}"
                ),
            )
        };
        let dst = &self.dst;
        let dst = dst
            .parse()
            .map_err(|_| wrong("dst", dst, "subnet, such as 10.99.0.0/16"))?;
        let gw = match self.gw.as_deref() {
            None | Some("") => None,
            Some(gw) => Some(gw.parse().map_err(|_| wrong("gw", gw, "address"))?),
        };
        Ok(Route { dst, gw })
    }
}

/// `gateway`: an address or a list of them.
fn addresses(value: Option<Value>) -> Result<Vec<IpAddr>, CniError> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    let read = |value: Value| {
        let ip = value.as_str().and_then(|text| text.parse().ok());
        ip.ok_or_else(|| {
            let shown: String = clean(&value.to_string()).chars().take(64).collect();
            let message = format!(
                "network configuration, \"gateway\": {shown} is no address; wanted: \"IP\", or a list of them, one a family"
            );
            error(Code::Decode, message)
        })
    };
    list.into_iter().map(read).collect()
}

/// Has the runtime a result of ADD that gave addresses? It hands that to DEL, where it kept one.
pub(super) fn had_addresses(raw: &[u8]) -> bool {
    let conf = serde_json::from_slice::<Value>(raw).unwrap_or_default();
    conf["prevResult"]["ips"]
        .as_array()
        .is_some_and(|ips| !ips.is_empty())
}

/// `dns`, as CNI has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(super) struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) options: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RuntimeConfig {
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default)]
    dns: Option<RuntimeDns>,
    #[serde(default)]
    aliases: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct RuntimeDns {
    #[serde(default)]
    servers: Vec<String>,
    #[serde(default)]
    searches: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ConventionArgs {
    #[serde(default)]
    cni: CniArgs,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct CniArgs {
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    labels: Vec<LabelArg>,
}

#[derive(Clone, Debug, Deserialize)]
struct LabelArg {
    key: String,
    value: String,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) version: Version,
    /// Of the configuration; part of the owners of its ports.
    pub(super) name: String,
    /// meshd's network.
    pub(super) network: String,
    pub(super) socket: Option<PathBuf>,
    /// Another name for the interface than the runtime's, for use behind a plugin that has made that one.
    pub(super) ifname: Option<String>,
    pub(super) mtu: Option<u16>,
    /// The delegated plugin; `None`: meshd's own leases.
    pub(super) ipam: Option<String>,
    /// No addresses at all.
    pub(super) no_addresses: bool,
    /// Addresses that were asked for, with or without prefix length.
    pub(super) ips: Vec<String>,
    pub(super) mac: Option<MacAddr>,
    /// Routers on the network, one a family.
    pub(super) gateways: Vec<IpAddr>,
    pub(super) routes: Vec<PortRoute>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) aliases: Vec<String>,
    /// Instead of meshd's own.
    pub(super) dns: Option<Dns>,
    pub(super) prev: Option<Map<String, Value>>,
    /// Of GC: container and interface.
    pub(super) valid: Option<Vec<(String, String)>>,
    /// All of it, for a delegated plugin.
    pub(super) raw: Vec<u8>,
}

fn invalid(message: impl Into<String>) -> CniError {
    error(Code::InvalidConfig, message)
}

/// The keys, taken one by one; what is left is unknown.
struct Keys(Map<String, Value>);

impl Keys {
    fn take<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, CniError> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|e| {
                let why = clean(&e.to_string());
                error(
                    Code::Decode,
                    format!("network configuration, \"{key}\": {why}"),
                )
            }),
        }
    }

    fn done(&self) -> Result<(), CniError> {
        match self.0.keys().find(|key| !key.starts_with("cni.dev/")) {
            None => Ok(()),
            Some(key) => {
                let shown: String = clean(key).chars().take(64).collect();
                Err(error(
                    Code::InvalidConfig,
                    format!("network configuration: \"{shown}\" is no key of meshd-cni"),
                )
                .details("the keys are described in docs/howto/cni.md"))
            }
        }
    }
}

/// The object, and the version that its answer is to have.
pub(super) fn object(raw: &[u8]) -> Result<(Map<String, Value>, Version), CniError> {
    let decode = |why: String| error(Code::Decode, format!("network configuration: {why}"));
    let map = match serde_json::from_slice(raw) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err(decode("no JSON object".to_owned())),
        Err(e) => return Err(decode(clean(&e.to_string()))),
    };
    let asked = map.get("cniVersion").and_then(Value::as_str);
    let version = asked.and_then(Version::find).ok_or_else(|| {
        let shown: String = clean(asked.unwrap_or("missing")).chars().take(32).collect();
        error(
            Code::IncompatibleVersion,
            format!(
                "cniVersion is {shown}; meshd-cni speaks {}",
                VERSIONS.join(", ")
            ),
        )
    })?;
    Ok((map, version))
}

/// What of a configuration says whose attachment it is, and who else has a share in it.
const OF_DEL: [&str; 6] = ["cniVersion", "type", "name", "socket", "ipam", "ifname"];

/// For DEL: whatever ADD was refused for is no reason to leave something behind, and a runtime asks until DEL succeeds.
pub(super) fn for_del(mut map: Map<String, Value>) -> Map<String, Value> {
    map.retain(|key, _| OF_DEL.contains(&key.as_str()));
    map
}

impl Config {
    /// Reads what [`object`] gave.
    pub(super) fn read(
        map: Map<String, Value>,
        version: Version,
        args: &Args,
        raw: Vec<u8>,
    ) -> Result<Self, CniError> {
        let mut keys = Keys(map);
        for known in [
            "cniVersion",
            "type",
            "capabilities",
            "disableCheck",
            "disableGC",
        ] {
            keys.0.remove(known);
        }
        let name: String = keys.take("name")?.unwrap_or_default();
        if !is_word(&name) {
            return Err(invalid(
                "network configuration: \"name\" must be letters, digits, `_`, `.` and `-`, first a letter or digit",
            ));
        }
        let valid = match keys.0.remove("cni.dev/valid-attachments") {
            Some(list) => Some(attachments(list)?),
            None => None,
        };
        let runtime: RuntimeConfig = keys.take("runtimeConfig")?.unwrap_or_default();
        let conventions: ConventionArgs = keys.take("args")?.unwrap_or_default();
        let (ipam, no_addresses) = ipam(keys.take("ipam")?)?;
        let gateways = addresses(keys.take("gateway")?)?;
        router::one_a_family(&gateways)
            .map_err(|why| invalid(format!("network configuration, \"gateway\": {why}")))?;
        let mut routes: Vec<PortRoute> = Vec::new();
        for given in keys.take::<Vec<GivenRoute>>("routes")?.unwrap_or_default() {
            let Route { dst, gw } = given.read()?;
            let via = gw.or_else(|| gateways.iter().copied().find(|ip| same_family(*ip, dst)));
            let route = PortRoute { to: dst, via };
            if let Some(other) = routes.iter().find(|other| other.to == dst) {
                return Err(invalid(format!(
                    "network configuration, \"routes\": {other} and {route} lead to the same destination: leave one out"
                )));
            }
            routes.push(route);
        }
        if keys.take("isDefaultGateway")?.unwrap_or(false) {
            if gateways.is_empty() {
                return Err(invalid(
                    "network configuration: \"isDefaultGateway\" needs \"gateway\", the address of a router on the network; meshd routes nothing",
                ));
            }
            for route in gateways.iter().map(|&via| default_route(via)) {
                match routes.iter().find(|other| other.to == route.to) {
                    Some(same) if *same == route => {}
                    Some(other) => {
                        return Err(invalid(format!(
                            "network configuration: \"routes\" has {other}, and \"isDefaultGateway\" makes {route}: leave one out"
                        )));
                    }
                    None => routes.push(route),
                }
            }
        }
        let mut labels: BTreeMap<String, String> = keys.take("labels")?.unwrap_or_default();
        labels.extend(conventions.cni.labels.into_iter().map(|l| (l.key, l.value)));
        let ifname: Option<String> = keys.take("ifname")?;
        if ifname.as_ref().is_some_and(|name| !is_ifname(name)) {
            return Err(invalid(
                "network configuration: \"ifname\" is no name of an interface",
            ));
        }
        let mut ips = runtime.ips;
        if ips.is_empty() {
            ips = conventions.cni.ips;
        }
        if ips.is_empty() {
            ips.extend(args.ip.clone());
        }
        let mac = match runtime.mac.as_ref().or(args.mac.as_ref()) {
            Some(text) => Some(
                text.parse()
                    .map_err(|_| invalid(format!("\"{}\" is no MAC address", clean(text))))?,
            ),
            None => None,
        };
        let config = Self {
            version,
            network: keys.take("network")?.unwrap_or_else(|| name.clone()),
            socket: keys.take("socket")?,
            ifname,
            mtu: keys.take("mtu")?.filter(|&mtu: &u16| mtu != 0),
            ipam,
            no_addresses,
            ips,
            mac,
            gateways,
            routes,
            labels,
            aliases: aliases(&runtime.aliases),
            dns: dns(runtime.dns, keys.take("dns")?),
            prev: keys.take("prevResult")?,
            valid,
            name,
            raw,
        };
        keys.done()?;
        Ok(config)
    }

    /// The addresses that were asked for; `None`: those that have no prefix length yet.
    pub(super) fn fixed(&self) -> Result<Vec<(IpAddr, Option<u8>)>, CniError> {
        let read = |text: &String| {
            if let Ok(net) = text.parse::<IpNet>() {
                return Ok((net.addr(), Some(net.prefix_len())));
            }
            text.parse()
                .map(|ip| (ip, None))
                .map_err(|_| invalid(format!("\"{}\" is no address", clean(text))))
        };
        self.ips.iter().map(read).collect()
    }

    /// Routers that no route of the configuration goes by: the node, which looks at routes, hears nothing of them.
    pub(super) fn unused_gateways(&self) -> Vec<IpAddr> {
        let used = |ip: &IpAddr| self.routes.iter().any(|route| route.via == Some(*ip));
        let all = self.gateways.iter().copied();
        all.filter(|ip| !used(ip)).collect()
    }

    /// What the port is to have, if the configuration alone says it.
    pub(super) fn without_asking(&self) -> Option<IpSpec> {
        match (self.no_addresses, self.ips.is_empty()) {
            (true, true) => Some(IpSpec::None),
            (false, true) => Some(IpSpec::Auto),
            (_, false) => None,
        }
    }
}

pub(super) fn same_family(ip: IpAddr, net: IpNet) -> bool {
    ip.is_ipv4() == net.addr().is_ipv4()
}

fn default_route(via: IpAddr) -> PortRoute {
    let to = match via {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    PortRoute { to, via: Some(via) }
}

/// The delegated plugin, and whether there are to be no addresses.
fn ipam(ipam: Option<Map<String, Value>>) -> Result<(Option<String>, bool), CniError> {
    let Some(ipam) = ipam else {
        return Ok((None, false));
    };
    match ipam.get("type").and_then(Value::as_str) {
        None | Some("" | "meshd" | "meshd-cni") => Ok((None, false)),
        Some("none") => Ok((None, true)),
        // It becomes the name of a file in the folders of CNI_PATH, and nowhere else.
        Some(other) if is_word(other) => Ok((Some(other.to_owned()), false)),
        Some(_) => Err(invalid(
            "network configuration: \"ipam\": \"type\" is no name of a plugin: letters, digits, `_`, `.` and `-`",
        )),
    }
}

fn attachments(list: Value) -> Result<Vec<(String, String)>, CniError> {
    #[derive(Deserialize)]
    struct Valid {
        #[serde(rename = "containerID")]
        container: String,
        ifname: String,
    }
    let list: Vec<Valid> = serde_json::from_value(list).map_err(|e| {
        let why = clean(&e.to_string());
        error(
            Code::Decode,
            format!("\"cni.dev/valid-attachments\": {why}"),
        )
    })?;
    Ok(list.into_iter().map(|v| (v.container, v.ifname)).collect())
}

/// A list of names, or such a list for each network, as Podman has it.
fn aliases(value: &Value) -> Vec<String> {
    let lists: Vec<&Value> = match value {
        Value::Array(_) => vec![value],
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    };
    let names = lists.into_iter().filter_map(Value::as_array).flatten();
    names
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// What the runtime says goes before what the configuration says.
fn dns(runtime: Option<RuntimeDns>, config: Option<Dns>) -> Option<Dns> {
    let runtime = runtime.map(|dns| Dns {
        nameservers: dns.servers,
        domain: None,
        search: dns.searches,
        options: dns.options,
    });
    let said = |dns: &Dns| *dns != Dns::default();
    runtime.filter(said).or(config.filter(said))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Config, CniError> {
        let raw = value.to_string().into_bytes();
        let (map, version) = object(&raw)?;
        Config::read(map, version, &Args::default(), raw)
    }

    fn with(key: &str, value: Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "lan", "type": "meshd-cni"});
        conf[key] = value;
        conf
    }

    #[test]
    fn the_network_is_named_as_the_configuration_unless_it_says_so() {
        assert_eq!(read(with("type", json!("x"))).unwrap().network, "lan");
        assert_eq!(
            read(with("network", json!("blue"))).unwrap().network,
            "blue"
        );
    }

    #[test]
    fn del_reads_only_what_says_whose_attachment_it_is() {
        for (key, value) in [
            ("netwrok", json!("blue")),
            ("mtu", json!(-1)),
            ("prevResult", json!("garbage")),
            ("runtimeConfig", json!({"ips": 5, "mac": "x"})),
            ("labels", json!([])),
        ] {
            let raw = with(key, value).to_string().into_bytes();
            let (map, version) = object(&raw).unwrap();
            assert!(Config::read(map.clone(), version, &Args::default(), vec![]).is_err());
            let config = Config::read(for_del(map), version, &Args::default(), raw.clone());
            let config = config.unwrap();
            assert_eq!((config.name.as_str(), config.raw), ("lan", raw), "{key}");
        }
        let odd = object(
            with("ipam", json!({"type": "../sh"}))
                .to_string()
                .as_bytes(),
        );
        let (map, version) = odd.unwrap();
        assert!(Config::read(for_del(map), version, &Args::default(), vec![]).is_err());
    }

    #[test]
    fn unknown_keys_and_odd_values_are_refused_with_their_name() {
        for (key, value, code) in [
            ("netwrok", json!("blue"), Code::InvalidConfig),
            ("ipMasq", json!(true), Code::InvalidConfig),
            ("ifname", json!("a/b"), Code::InvalidConfig),
            ("ipam", json!({"type": "../../bin/sh"}), Code::InvalidConfig),
            ("ipam", json!({"type": "a/b"}), Code::InvalidConfig),
            ("isDefaultGateway", json!(true), Code::InvalidConfig),
            ("runtimeConfig", json!({"mac": "zz"}), Code::InvalidConfig),
            ("gateway", json!("bogus"), Code::Decode),
            ("gateway", json!(["10.0.0.9", 7]), Code::Decode),
            (
                "gateway",
                json!(["10.0.0.9", "10.0.0.8"]),
                Code::InvalidConfig,
            ),
            (
                "routes",
                json!([{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16", "gw": "10.0.0.8"}]),
                Code::InvalidConfig,
            ),
            (
                "routes",
                json!([{"dst": "10.9.0.0/16", "gw": "x"}]),
                Code::Decode,
            ),
            ("mtu", json!("many"), Code::Decode),
            ("mtu", json!(70000), Code::Decode),
            ("routes", json!([{"dst": "x"}]), Code::Decode),
            ("name", json!("../x"), Code::InvalidConfig),
            ("cniVersion", json!("2.0.0"), Code::IncompatibleVersion),
            ("cniVersion", json!(1), Code::IncompatibleVersion),
            ("cni.dev/valid-attachments", json!({"a": 1}), Code::Decode),
        ] {
            let refused = read(with(key, value.clone())).unwrap_err();
            assert!(refused.is(code), "{key}: {value}: {refused:?}");
            if ["gateway", "routes"].contains(&key) {
                let said = refused.message();
                assert!(said.contains(&format!("\"{key}\"")), "{said}");
            }
        }
        let said = |key, value| read(with(key, value)).unwrap_err().message().to_owned();
        assert!(said("gateway", json!("bogus")).contains("\"bogus\" is no address"));
        assert!(said("routes", json!([{"dst": "foo"}])).contains("\"dst\": \"foo\" is no subnet"));
        let mut two = with("routes", json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.8"}]));
        two["gateway"] = json!("10.0.0.9");
        two["isDefaultGateway"] = json!(true);
        let refused = read(two.clone()).unwrap_err();
        assert!(
            refused.message().contains("0.0.0.0/0 via 10.0.0.8"),
            "{refused:?}"
        );
        two["routes"] = json!([{"dst": "0.0.0.0/0"}]);
        assert_eq!(read(two).unwrap().routes.len(), 1);
        assert!(read(with("cni.dev/other", json!(1))).is_ok());
    }

    #[test]
    fn a_gateway_that_no_route_goes_by_is_known_as_such() {
        let mut conf = with("gateway", json!(["99.1.1.1", "fd00::9"]));
        conf["routes"] = json!([{"dst": "fd09::/64"}]);
        let config = read(conf).unwrap();
        assert_eq!(
            config.unused_gateways(),
            ["99.1.1.1".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn a_result_of_add_with_addresses_is_seen_in_whatever_del_is_given() {
        for (raw, had) in [
            (
                r#"{"prevResult":{"ips":[{"address":"10.0.0.2/24"}]}}"#,
                true,
            ),
            (r#"{"prevResult":{"ips":[]}}"#, false),
            (r#"{"prevResult":"garbage"}"#, false),
            ("{}", false),
            ("[", false),
        ] {
            assert_eq!(had_addresses(raw.as_bytes()), had, "{raw}");
        }
    }

    #[test]
    fn the_runtime_goes_before_the_configuration() {
        let mut conf = with("dns", json!({"nameservers": ["10.0.0.9"]}));
        conf["runtimeConfig"] = json!({"dns": {"servers": ["1.1.1.1"], "searches": ["x"]}, "aliases": {"lan": ["web"]},
            "ips": ["10.0.0.5"], "mac": "02:00:00:00:00:05", "portMappings": []});
        let config = read(conf).unwrap();
        assert_eq!(config.dns.as_ref().unwrap().nameservers, ["1.1.1.1"]);
        assert_eq!(config.aliases, ["web"]);
        assert_eq!(
            config.fixed().unwrap(),
            [("10.0.0.5".parse().unwrap(), None)]
        );
        assert!(config.mac.is_some() && config.without_asking().is_none());
    }

    #[test]
    fn a_route_without_a_router_goes_by_the_gateway_of_its_family() {
        let mut conf = with("gateway", json!(["10.0.0.9", "fd00::9"]));
        conf["routes"] = json!([{"dst": "10.9.0.0/16"}, {"dst": "fd09::/64", "gw": "fd00::8"}]);
        conf["isDefaultGateway"] = json!(true);
        let shown: Vec<String> = read(conf)
            .unwrap()
            .routes
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "10.9.0.0/16 via 10.0.0.9",
                "fd09::/64 via fd00::8",
                "0.0.0.0/0 via 10.0.0.9",
                "::/0 via fd00::9",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = object(&bytes);
        }

        #[test]
        fn any_value_of_any_key_is_read_or_refused(
            key in "name|network|socket|ifname|mtu|ipam|gateway|routes|labels|dns|prevResult|runtimeConfig|args|[a-z]{3}",
            value in prop_oneof![
                Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!({"type": 1, "cni": 5, "ips": {}})),
                any::<i64>().prop_map(|n| json!(n)), any::<String>().prop_map(|s| json!(s)),
            ],
        ) {
            let _ = read(with(&key, value));
        }
    }
}
