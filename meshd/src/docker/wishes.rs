//! Wishes: what somebody wrote for Docker by `-o`, `--driver-opt` and labels, and what of it we know.
//!
//! Owns the names of options and their meaning. Asks nobody: what a word means does not hang on how things are.

use super::book::Endpoint;
use super::engine::About;
use super::ipam::SPACE;
use super::of;
use super::protocol::{IpamData, shown};
use ipnet::IpNet;
use meshd_core::attach;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::ident::Label;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where Docker puts what was given by `-o`.
const GENERIC: &str = "com.docker.network.generic";
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
const LABEL: &str = "meshd.label.";

/// What `-o` of `docker network create` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) network: Option<String>,
    pub(super) egress: bool,
    /// Routers on the network, at most one a family.
    pub(super) gateways: Vec<IpAddr>,
    pub(super) mtu: Option<u16>,
    pub(super) labels: BTreeMap<String, String>,
}

fn text(key: &str, value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Refusal::new(
            ErrorCode::DockerOptionInvalid,
            format!("option {} is no text", shown(key)),
        )),
    }
}

impl Wishes {
    pub(super) fn read(options: &Map<String, Value>) -> Result<Self, Refusal> {
        let mut wishes = Self {
            network: None,
            egress: true,
            gateways: Vec::new(),
            mtu: None,
            labels: BTreeMap::new(),
        };
        let empty = Map::new();
        let given = options
            .get(GENERIC)
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        for (key, value) in given {
            let value = text(key, value)?;
            match key.as_str() {
                "meshd.network" => wishes.network = Some(value),
                "meshd.egress" => {
                    wishes.egress = value.parse().map_err(|_| {
                        Refusal::new(
                            ErrorCode::DockerOptionInvalid,
                            format!("meshd.egress is true or false, not \"{}\"", shown(&value)),
                        )
                    })?;
                }
                "meshd.gateway" => wishes.gateways = gateways(&value)?,
                MTU => {
                    let mtu = value.parse();
                    wishes.mtu = Some(mtu.map_err(|_| {
                        Refusal::new(
                            ErrorCode::DockerOptionInvalid,
                            format!("{MTU}: \"{}\" is no MTU", shown(&value)),
                        )
                    })?);
                }
                label if label.starts_with(LABEL) => {
                    let label = label.strip_prefix(LABEL).unwrap_or_default().to_owned();
                    wishes.labels.insert(label, value);
                }
                other if other.starts_with("com.docker.") => {}
                other => {
                    return Err(Refusal::new(
                        ErrorCode::DockerOptionUnknown,
                        format!(
                            "option {} is not known; there are meshd.network=NAME, meshd.gateway=IP, meshd.egress=true|false, meshd.label.KEY=VALUE and {MTU}=BYTES",
                            shown(other)
                        ),
                    ));
                }
            }
        }
        check_labels(&wishes.labels)?;
        // `docker network create --internal`.
        if options.get("com.docker.network.internal") == Some(&Value::Bool(true)) {
            wishes.egress = false;
        }
        Ok(wishes)
    }
}

/// `meshd.gateway`: an address, or one of each family with a comma between.
fn gateways(text: &str) -> Result<Vec<IpAddr>, Refusal> {
    let wrong = |why: String| {
        let message = format!("meshd.gateway=\"{}\": {why}", shown(text));
        Refusal::new(ErrorCode::DockerOptionInvalid, message)
    };
    let mut all: Vec<IpAddr> = Vec::new();
    for part in text.split(',') {
        let ip: IpAddr = part
            .trim()
            .parse()
            .map_err(|_| wrong(format!("\"{}\" is no address", shown(part))))?;
        if all.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(wrong(format!("one router of {family} is possible")));
        }
        all.push(ip);
    }
    Ok(all)
}

/// What is said of one endpoint: `docker network connect --driver-opt`.
pub(super) fn endpoint_wishes(
    options: &Map<String, Value>,
) -> Result<(Option<Label>, BTreeMap<String, String>), Refusal> {
    let (mut name, mut labels) = (None, BTreeMap::new());
    for (key, value) in options.iter().filter(|(key, _)| key.starts_with("meshd.")) {
        let value = text(key, value)?;
        match key.as_str() {
            "meshd.name" => name = Some(new_name(&value)?),
            label if label.starts_with(LABEL) => {
                let label = label.strip_prefix(LABEL).unwrap_or_default().to_owned();
                labels.insert(label, value);
            }
            other => {
                return Err(Refusal::new(
                    ErrorCode::DockerOptionUnknown,
                    format!(
                        "driver option {} is not known; there are meshd.name=NAME and meshd.label.KEY=VALUE",
                        shown(other)
                    ),
                ));
            }
        }
    }
    check_labels(&labels)?;
    Ok((name, labels))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    attach::check_labels(labels).map_err(|refusal| of(&format!("{LABEL}…: "), &refusal))
}

/// Labels of all endpoints of a network, with those of one.
pub(super) fn united(
    of_network: &BTreeMap<String, String>,
    own: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let all: BTreeMap<_, _> = of_network.clone().into_iter().chain(own).collect();
    check_labels(&all).map_err(|why| of("with the labels of its network, ", &why))?;
    Ok(all)
}

pub(super) fn new_name(text: &str) -> Result<Label, Refusal> {
    let name: Label = text
        .parse()
        .map_err(|error| Refusal::new(ErrorCode::NameInvalid, format!("{error}")))?;
    match name.is_number() {
        true => Err(Refusal::new(
            ErrorCode::NameInvalid,
            format!("name {name}: put a letter in it"),
        )),
        false => Ok(name),
    }
}

/// A container's name as a name on the network: `shop_web.1` is `shop-web-1`. `None` where nothing is left of it.
fn label_of(container: &str) -> Option<Label> {
    let mapped: String = container
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    new_name(mapped.trim_matches('-')).ok()
}

/// The subnets of a network of Docker, and the router of each that has one.
pub(super) fn pools(
    data: &[IpamData],
    into: &mut Vec<(IpNet, Option<IpAddr>)>,
) -> Result<(), Refusal> {
    for one in data.iter().filter(|one| !one.pool.is_empty()) {
        let pool: IpNet = one.pool.parse().map_err(|_| {
            Refusal::new(
                ErrorCode::SubnetInvalid,
                format!("pool \"{}\" is no subnet", shown(&one.pool)),
            )
        })?;
        // Docker's own IPAM names a gateway of each pool, of its own choice where nobody gave one, and tells them not apart.
        // Ours names its service then, which is known.
        let gateway = match one.space.as_str() {
            SPACE => one.gateway.split('/').next().unwrap_or_default(),
            _ => "",
        };
        let gateway = match gateway {
            "" => None,
            text => {
                let ip: IpAddr = text.parse().map_err(|_| {
                    Refusal::new(
                        ErrorCode::AddressInvalid,
                        format!("gateway \"{}\" is no address", shown(text)),
                    )
                })?;
                Some(ip)
            }
        };
        // Without addresses (`--ipam-driver null`) the pool is all of them.
        if pool.prefix_len() > 0 {
            into.push((pool.trunc(), gateway));
        }
    }
    Ok(())
}

/// Name and labels of an endpoint, and whether somebody gave the name.
pub(super) type Named = (Option<Label>, BTreeMap<String, String>, bool);

pub(super) fn named(endpoint: &Endpoint, about: Option<About>) -> Result<Named, Refusal> {
    let about = about.unwrap_or_default();
    let mut labels = endpoint.labels.clone();
    for (key, value) in &about.labels {
        if let Some(key) = key.strip_prefix(LABEL) {
            labels
                .entry(key.to_owned())
                .or_insert_with(|| value.clone());
        }
    }
    if endpoint.name.is_some() {
        return Ok((endpoint.name.clone(), labels, true));
    }
    if let Some(name) = about.labels.get("meshd.name") {
        return Ok((Some(new_name(name)?), labels, true));
    }
    Ok((label_of(&about.name), labels, false))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::protocol::Id;
    use super::*;
    use meshd_core::ident::MacAddr;
    use serde_json::json;

    fn options(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn options_are_read_and_a_misspelt_one_is_refused_with_the_ones_there_are() {
        let given = options(json!({ GENERIC: {
            "meshd.network": "lan", "meshd.egress": "false", "meshd.label.tier": "db", MTU: "1400"
        }}));
        let wishes = Wishes::read(&given).unwrap();
        assert_eq!(wishes.network.as_deref(), Some("lan"));
        assert_eq!((wishes.egress, wishes.mtu), (false, Some(1400)));
        assert_eq!(wishes.labels.get("tier").unwrap(), "db");
        assert!(wishes.gateways.is_empty());
        let refused = Wishes::read(&options(json!({ GENERIC: { "meshd.netwrok": "lan" } })));
        assert!(refused.unwrap_err().message.contains("meshd.network=NAME"));
        let internal = options(json!({ "com.docker.network.internal": true }));
        assert!(!Wishes::read(&internal).unwrap().egress);
        assert!(Wishes::read(&options(json!({ GENERIC: { "meshd.network": [1] } }))).is_err());
        assert!(endpoint_wishes(&options(json!({ "meshd.name": "7" }))).is_err());
        assert!(endpoint_wishes(&options(json!({ "meshd.x": "7" }))).is_err());
    }

    #[test]
    fn what_is_wrong_with_an_option_has_a_code_that_says_so() {
        for (given, code) in [
            (
                json!({ "meshd.netwrok": "lan" }),
                ErrorCode::DockerOptionUnknown,
            ),
            (
                json!({ "meshd.egress": "perhaps" }),
                ErrorCode::DockerOptionInvalid,
            ),
            (
                json!({ "meshd.network": [1] }),
                ErrorCode::DockerOptionInvalid,
            ),
            (json!({ MTU: "wide" }), ErrorCode::DockerOptionInvalid),
            (
                json!({ "meshd.gateway": "10.0.0.9,10.0.0.8" }),
                ErrorCode::DockerOptionInvalid,
            ),
            (
                json!({ "meshd.gateway": "" }),
                ErrorCode::DockerOptionInvalid,
            ),
            (
                json!({ "meshd.label.k": "x".repeat(200) }),
                ErrorCode::LabelInvalid,
            ),
        ] {
            let refused = Wishes::read(&options(json!({ GENERIC: given }))).unwrap_err();
            assert_eq!(refused.code, code, "{refused}");
            assert!(super::super::told(&refused).ends_with(&format!("(meshd explain {code})")));
        }
        let refused = endpoint_wishes(&options(json!({ "meshd.name": "7" }))).unwrap_err();
        assert_eq!(refused.code, ErrorCode::NameInvalid);
        let pool = IpamData {
            space: SPACE.to_owned(),
            pool: "10.0.0.0/33".to_owned(),
            gateway: String::new(),
        };
        let refused = pools(&[pool], &mut Vec::new()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::SubnetInvalid);
        assert_eq!(
            Id::new("a/b").unwrap_err().code,
            ErrorCode::DockerRequestInvalid
        );
    }

    #[test]
    fn a_gateway_is_a_router_where_our_addresses_name_it_or_an_option_and_not_where_docker_chose() {
        let of = |space: &str, gateway: &str| {
            let pool = IpamData {
                space: space.to_owned(),
                pool: "10.10.0.0/24".to_owned(),
                gateway: gateway.to_owned(),
            };
            let mut found = Vec::new();
            pools(&[pool], &mut found).unwrap();
            found.first().unwrap().1.map(|ip| ip.to_string())
        };
        // `--ip-range 10.10.0.240/29` without a word of a gateway.
        assert_eq!(of("LocalDefault", "10.10.0.240/24"), None);
        assert_eq!(of("LocalDefault", "bogus"), None);
        assert_eq!(of(SPACE, "10.10.0.9/24").as_deref(), Some("10.10.0.9"));
        let given = options(json!({ GENERIC: { "meshd.gateway": "10.10.0.9, fd00::9" } }));
        let gateways: Vec<IpAddr> = Wishes::read(&given).unwrap().gateways;
        assert_eq!(
            gateways,
            ["10.10.0.9", "fd00::9"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn more_labels_than_an_endpoint_has_are_refused_where_they_are_given() {
        let many = |from: u32, to: u32| -> BTreeMap<String, String> {
            (from..to)
                .map(|n| (format!("k{n}"), "v".to_owned()))
                .collect()
        };
        let given = |labels: &BTreeMap<String, String>| {
            let labels = labels
                .iter()
                .map(|(k, v)| (format!("{LABEL}{k}"), json!(v)));
            labels.collect::<Map<_, _>>()
        };
        let network = |labels| Wishes::read(&options(json!({ GENERIC: given(&labels) })));
        assert_eq!(network(many(0, 32)).unwrap().labels.len(), 32);
        assert!(
            network(many(0, 33))
                .unwrap_err()
                .message
                .contains("33 labels")
        );
        let long = [("k".to_owned(), "x".repeat(200))].into();
        assert!(network(long).unwrap_err().message.contains("at most 128"));
        assert!(endpoint_wishes(&given(&many(0, 33))).is_err());
        // The endpoint's own win, and count once.
        assert_eq!(united(&many(0, 32), many(0, 32)).unwrap().len(), 32);
        let both = united(&many(0, 20), many(20, 40)).unwrap_err().message;
        assert!(
            both.contains("of its network") && both.contains("40 labels"),
            "{both}"
        );
    }

    #[test]
    fn a_containers_name_becomes_one_that_names_can_have() {
        let of = |name| label_of(name).map(|label| label.to_string());
        assert_eq!(of("shop_web.1").as_deref(), Some("shop-web-1"));
        assert_eq!(of("_x_").as_deref(), Some("x"));
        assert_eq!(of("42"), None);
        assert_eq!(of(""), None);
        assert_eq!(of(&"a_".repeat(60)).unwrap().len(), 63);
    }

    #[test]
    fn a_given_name_is_kept_and_a_label_of_the_container_is_a_label_of_the_endpoint() {
        let endpoint = Endpoint {
            network: "aa".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: Vec::new(),
            name: None,
            labels: [("tier".to_owned(), "db".to_owned())].into(),
            since: 0,
        };
        let about = || {
            Some(About {
                name: "shop_db".to_owned(),
                labels: [
                    ("meshd.label.tier".to_owned(), "web".to_owned()),
                    ("meshd.label.app".to_owned(), "shop".to_owned()),
                    ("other".to_owned(), "x".to_owned()),
                ]
                .into(),
            })
        };
        let (name, labels, given) = named(&endpoint, about()).unwrap();
        assert_eq!((name.unwrap().as_str(), given), ("shop-db", false));
        assert_eq!(labels.get("tier").unwrap(), "db");
        assert_eq!(labels.len(), 2);
        let mut about = about().unwrap();
        about
            .labels
            .insert("meshd.name".to_owned(), "db".to_owned());
        let (name, _, given) = named(&endpoint, Some(about)).unwrap();
        assert_eq!((name.unwrap().as_str(), given), ("db", true));
    }
}
