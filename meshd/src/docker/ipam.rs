//! The IPAM driver: addresses out of the network's pool, so that no two hosts hand out the same.
//!
//! ```text
//!   RequestPool      which network of the mesh: by --ipam-opt meshd.network, or by --subnet, also one that is yet
//!                    to be defined; the pool's id says it all
//!   RequestAddress   a reservation in the node's pool, under the MAC that Docker has for the endpoint
//!   ReleaseAddress   it goes back
//! ```
//!
//! Owns no table: reservations are the node's, and outlive both daemons. The gateway that Docker wants of each pool is the
//! node's own service address, which routes nothing.

use super::network::subnet_of;
use super::protocol::{self, ReleaseAddress, RequestAddress, RequestPool, shown};
use super::{Driver, of};
use ipnet::IpNet;
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::command::{Command, Refusal, Reply, ReserveSpec};
use meshd_core::ident::Vni;
use meshd_core::owner::Owner;
use meshd_core::ranges::service_address;
use meshd_core::wire::record::NetworkDef;
use serde_json::{Value, json};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// Owner of reservations.
pub(super) const OWNER: &str = "docker";
/// What Docker calls our addresses by.
pub(super) const SPACE: &str = "meshd";
/// Others are asked for addresses so long.
const ADDRESS_WITHIN: Duration = Duration::from_secs(6);
const ADDRESS_AGAIN: Duration = Duration::from_millis(100);

/// What a pool's id says: network, subnet, and the part of it that Docker may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PoolId {
    /// `None`: the one that has the subnet, and that is defined when Docker makes its network.
    vni: Option<Vni>,
    subnet: IpNet,
    within: IpNet,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vni = self.vni.map_or(0, Vni::get);
        write!(f, "{vni}:{}:{}", self.subnet, self.within)
    }
}

impl FromStr for PoolId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::new(
                ErrorCode::DockerRequestInvalid,
                format!("\"{}\" is no pool of this driver", shown(text)),
            )
        };
        let (vni, rest) = text.split_once(':').ok_or_else(wrong)?;
        // An IPv6 subnet has colons of its own: the one is meant that leaves a subnet on each side.
        let colons: Vec<usize> = rest.match_indices(':').map(|(at, _)| at).collect();
        let parsed = colons.into_iter().find_map(|at| {
            let (subnet, within) = (rest.get(..at)?, rest.get(at + 1..)?);
            Some((subnet.parse::<IpNet>().ok()?, within.parse::<IpNet>().ok()?))
        });
        let (subnet, within) = parsed.ok_or_else(wrong)?;
        let vni = match vni.parse() {
            Ok(0) => None,
            Ok(vni) => Some(Vni::new(vni).map_err(|_| wrong())?),
            Err(_) => return Err(wrong()),
        };
        if !subnet.contains(&within) {
            return Err(wrong());
        }
        Ok(Self {
            vni,
            subnet,
            within,
        })
    }
}

fn owner() -> Result<Owner, Refusal> {
    OWNER
        .parse()
        .map_err(|error| Refusal::new(ErrorCode::Internal, format!("{error}")))
}

fn subnet(text: &str) -> Result<IpNet, Refusal> {
    let net: IpNet = text.parse().map_err(|_| {
        Refusal::new(
            ErrorCode::SubnetInvalid,
            format!("\"{}\" is no subnet", shown(text)),
        )
    })?;
    Ok(net.trunc())
}

/// Which subnet of which network is meant.
fn choose<'a>(
    defs: &'a [NetworkDef],
    name: Option<&str>,
    wanted: Option<IpNet>,
    v6: bool,
) -> Result<Option<(&'a NetworkDef, IpNet)>, Refusal> {
    let fits = |net: &IpNet| wanted.map_or(matches!(net, IpNet::V6(_)) == v6, |w| w == *net);
    let names = || {
        let names: Vec<&str> = defs.iter().map(|def| def.name.as_str()).collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        }
    };
    let Some(name) = name else {
        let mut found = defs.iter().filter_map(|def| {
            let subnet = def.subnets.iter().find(|net| fits(net))?;
            Some((def, *subnet))
        });
        return match (found.next(), found.next(), wanted) {
            (Some(one), None, _) => Ok(Some(one)),
            (None, _, Some(_)) => Ok(None),
            _ => Err(Refusal::new(
                ErrorCode::DockerNetworkUnsaid,
                format!(
                    "say which network of the mesh it is: `--ipam-opt meshd.network=NAME`, or --subnet; there are: {}",
                    names()
                ),
            )),
        };
    };
    let Some(def) = defs
        .iter()
        .find(|def| def.name.as_str().eq_ignore_ascii_case(name))
    else {
        return match wanted {
            Some(_) => Ok(None),
            None => Err(Refusal::new(
                ErrorCode::NetworkUnknown,
                format!(
                    "there is no network {} in the mesh; there are: {}. With --subnet it is defined",
                    shown(name),
                    names()
                ),
            )),
        };
    };
    let found = def.subnets.iter().find(|net| fits(net));
    let found = found.ok_or_else(|| {
        let has: Vec<String> = def.subnets.iter().map(ToString::to_string).collect();
        let wanted = wanted.map_or_else(
            || {
                if v6 {
                    "IPv6 subnet".to_owned()
                } else {
                    "IPv4 subnet".to_owned()
                }
            },
            |wanted| format!("subnet {wanted}"),
        );
        Refusal::new(
            ErrorCode::SubnetUnknown,
            format!(
                "network {} has no {wanted}; it has: {}",
                def.name,
                has.join(", ")
            ),
        )
    })?;
    Ok(Some((def, *found)))
}

impl Driver {
    pub(super) async fn request_pool(&self, wish: RequestPool) -> Result<Value, Refusal> {
        if let Some(other) = wish.options.keys().find(|key| *key != "meshd.network") {
            return Err(Refusal::new(
                ErrorCode::DockerOptionUnknown,
                format!(
                    "--ipam-opt {} is not known; there is meshd.network=NAME",
                    shown(other)
                ),
            ));
        }
        let name = wish.options.get("meshd.network").map(String::as_str);
        let wanted = match wish.pool.as_str() {
            "" => None,
            text => Some(subnet(text)?),
        };
        let defs = self.defs().await?;
        let (vni, subnet_of) = match (choose(&defs, name, wanted, wish.v6)?, wanted) {
            (Some((def, subnet)), _) => (Some(def.vni), subnet),
            // Defined when the network is made, under the name that is given then.
            (None, Some(wanted)) => (None, wanted),
            (None, None) => {
                return Err(Refusal::new(ErrorCode::SubnetInvalid, "no subnet is given"));
            }
        };
        let within = match wish.sub_pool.as_str() {
            "" => subnet_of,
            text => subnet(text)?,
        };
        if !subnet_of.contains(&within) {
            return Err(Refusal::new(
                ErrorCode::AddressOutside,
                format!("--ip-range {within} is not inside of {subnet_of}"),
            ));
        }
        let id = PoolId {
            vni,
            subnet: subnet_of,
            within,
        };
        Ok(json!({ "PoolID": id.to_string(), "Pool": subnet_of.to_string(), "Data": {} }))
    }

    pub(super) async fn request_address(&self, wish: RequestAddress) -> Result<Value, Refusal> {
        let pool: PoolId = wish.pool.parse()?;
        let ip = match wish.address.as_str() {
            "" => None,
            text => {
                let ip: IpAddr = text.parse().map_err(|_| {
                    Refusal::new(
                        ErrorCode::AddressInvalid,
                        format!("\"{}\" is no address", shown(text)),
                    )
                })?;
                if !pool.subnet.contains(&ip) {
                    return Err(Refusal::new(
                        ErrorCode::AddressOutside,
                        format!("address {ip} is not in {}", pool.subnet),
                    ));
                }
                Some(ip)
            }
        };
        let answer = |ip: IpAddr| {
            let prefix = pool.subnet.prefix_len();
            json!({ "Address": format!("{ip}/{prefix}"), "Data": {} })
        };
        if wish.options.get("RequestAddressType").map(String::as_str)
            == Some("com.docker.network.gateway")
        {
            // A router, if one is named, is kept with the network; none, and it is our service.
            let ip = ip.or_else(|| service_address(&pool.subnet));
            return ip.map(answer).ok_or_else(|| {
                Refusal::new(
                    ErrorCode::SubnetInvalid,
                    format!("{} is too small for a gateway", pool.subnet),
                )
            });
        }
        let mac = wish.options.get("com.docker.network.endpoint.macaddress");
        let mac = mac.map(|text| protocol::mac(text)).transpose()?;
        let spec = ReserveSpec {
            network: self.network_of_pool(&pool).await?.to_string(),
            subnet: pool.subnet,
            within: pool.within,
            ip,
            mac,
            owner: owner()?,
        };
        let end = tokio::time::Instant::now() + ADDRESS_WITHIN;
        loop {
            match self.driver.command(Command::Reserve(spec.clone())).await {
                Ok(Reply::Address(net)) => return Ok(answer(net.addr())),
                Ok(_) => {
                    return Err(Refusal::new(
                        ErrorCode::Internal,
                        "the node answered with something else",
                    ));
                }
                // Others are asked; their answer takes a moment.
                Err(refusal)
                    if refusal.kind() == RefusalKind::Unavailable
                        && tokio::time::Instant::now() < end =>
                {
                    tokio::time::sleep(ADDRESS_AGAIN).await;
                }
                Err(refusal) => return Err(refusal),
            }
        }
    }

    pub(super) async fn release_address(&self, wish: ReleaseAddress) -> Result<Value, Refusal> {
        let pool: PoolId = wish.pool.parse()?;
        let text = wish.address.split('/').next().unwrap_or_default();
        let ip: IpAddr = text.parse().map_err(|_| {
            Refusal::new(
                ErrorCode::AddressInvalid,
                format!("\"{}\" is no address", shown(text)),
            )
        })?;
        // Of a network that never came nothing was kept, and a router's address goes with the networks that name it.
        if let Ok(vni) = self.network_of_pool(&pool).await
            && !self.book.is_gateway(vni, ip)
        {
            self.release(vni, ip).await?;
        }
        Ok(json!({}))
    }

    /// Keeps the addresses of a network's routers from everybody but who is given one by hand. Whoever has one is the router.
    pub(super) async fn keep_gateways(
        &self,
        def: &NetworkDef,
        gateways: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Refusal> {
        let mut kept = Vec::new();
        for &ip in gateways {
            match self.keep_gateway(def, ip).await {
                Ok(true) => kept.push(ip),
                Ok(false) => {}
                Err(refusal) => {
                    self.give_back(def.vni, &kept).await;
                    return Err(of(&format!("gateway {ip}: "), &refusal));
                }
            }
        }
        Ok(kept)
    }

    /// False, if somebody has it: a router is there.
    async fn keep_gateway(&self, def: &NetworkDef, ip: IpAddr) -> Result<bool, Refusal> {
        let subnet = subnet_of(&def.name, &def.subnets, ip)?;
        let spec = ReserveSpec {
            network: def.vni.to_string(),
            subnet,
            within: subnet,
            ip: Some(ip),
            mac: None,
            owner: owner()?,
        };
        match self.driver.command(Command::Reserve(spec)).await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.kind() == RefusalKind::Conflict => {
                tracing::debug!(%ip, "a router is there: {}", refusal.message);
                Ok(false)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Gives back what was kept for a network that came to nothing; that is the error to be told, so this one is logged.
    pub(super) async fn give_back(&self, vni: Vni, kept: &[IpAddr]) {
        if let Err(refusal) = self.drop_gateways(vni, kept).await {
            tracing::warn!(code = %refusal.code, network = %vni, "a gateway's address stays reserved: {}", refusal.message);
        }
    }

    /// Gives back those that no network of Docker names any more.
    pub(super) async fn drop_gateways(&self, vni: Vni, gateways: &[IpAddr]) -> Result<(), Refusal> {
        for &ip in gateways {
            if !self.book.is_gateway(vni, ip) {
                self.release(vni, ip).await?;
            }
        }
        Ok(())
    }

    /// Which network a pool is of.
    async fn network_of_pool(&self, pool: &PoolId) -> Result<Vni, Refusal> {
        if let Some(vni) = pool.vni {
            return Ok(vni);
        }
        let defs = self.defs().await?;
        let v6 = matches!(pool.subnet, IpNet::V6(_));
        let found = choose(&defs, None, Some(pool.subnet), v6)?;
        found.map(|(def, _)| def.vni).ok_or_else(|| {
            Refusal::new(ErrorCode::NetworkUnknown, format!(
                "no network of the mesh has the subnet {}; `-o meshd.network=NAME` of `docker network create` defines one",
                pool.subnet
            ))
        })
    }

    pub(super) async fn release(&self, vni: Vni, ip: IpAddr) -> Result<(), Refusal> {
        let network = vni.to_string();
        let released = self.driver.command(Command::Release { network, ip });
        released.await.map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::ident::{NodeId, WallTime};
    use proptest::prelude::*;

    fn def(name: &str, vni: u32, subnets: &[&str]) -> NetworkDef {
        NetworkDef {
            author: NodeId([1; 32]),
            serial: 1,
            since: WallTime(1),
            vni: Vni::new(vni).unwrap(),
            name: name.parse().unwrap(),
            subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
            mtu: 1450,
            removed: false,
        }
    }

    #[test]
    fn a_pools_id_reads_back_as_itself_in_both_families() {
        for (subnet, within) in [
            ("10.0.0.0/24", "10.0.0.64/26"),
            ("fd00:1::/64", "fd00:1::/64"),
            ("fd00:1::/64", "fd00:1::8000/113"),
        ] {
            let id = PoolId {
                vni: Vni::new(4242).ok(),
                subnet: subnet.parse().unwrap(),
                within: within.parse().unwrap(),
            };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in [
            "",
            "x",
            "16777216:10.0.0.0/24:10.0.0.0/24",
            "7:10.0.0.0/24:10.1.0.0/24",
            "7:::",
        ] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pool_or_refused(text in ".{0,60}") {
            let _ = text.parse::<PoolId>();
        }
    }

    #[test]
    fn a_network_is_found_by_name_by_subnet_or_by_being_the_only_one() {
        let two = [
            def("lan", 7, &["10.0.0.0/24", "fd00::/64"]),
            def("dmz", 8, &["10.1.0.0/24"]),
        ];
        let by = |name, net: Option<&str>, v6| {
            let net = net.map(|net| net.parse().unwrap());
            let found = choose(&two, name, net, v6)?;
            Ok::<_, Refusal>(found.map(|(def, net)| format!("{} {net}", def.name)))
        };
        assert_eq!(
            by(Some("LAN"), None, true).unwrap().unwrap(),
            "lan fd00::/64"
        );
        assert_eq!(
            by(None, Some("10.1.0.0/24"), false).unwrap().unwrap(),
            "dmz 10.1.0.0/24"
        );
        assert!(
            by(None, None, false)
                .unwrap_err()
                .message
                .contains("lan, dmz")
        );
        assert!(by(None, Some("10.9.0.0/24"), false).unwrap().is_none());
        assert!(
            by(Some("new"), Some("10.9.0.0/24"), false)
                .unwrap()
                .is_none()
        );
        assert!(by(Some("new"), None, false).is_err());
        assert!(
            by(Some("dmz"), None, true)
                .unwrap_err()
                .message
                .contains("no IPv6 subnet")
        );
        let only = choose(&two[1..], None, None, false).unwrap().unwrap();
        assert_eq!(only.0.name.as_str(), "dmz");
    }
}
