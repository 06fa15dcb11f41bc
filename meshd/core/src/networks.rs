//! Networks: what an operator may define, and how a definition comes about.
//!
//! Owns the rules (names, VNIs, subnets, MTU, who may) as pure functions from what is known to a record or a refusal with
//! advice. Refuses to sign, keep or spread anything: that is the directory's.

use crate::code::ErrorCode;
use crate::command::{NetworkSpec, Refusal};
use crate::ident::{Label, NodeId, Vni, WallTime};
use crate::wire::record::{NetworkDef, Role};
use ipnet::IpNet;

/// MTU where none is asked for: on an underlay of 1500 bytes a full frame is one datagram of QUIC, by IPv6 and with a VLAN tag too, and
/// each segment of a superframe one slice, which bears the headers again (ADR 35).
pub const MTU_DEFAULT: u16 = 1380;
/// IPv4 must work (RFC 791 §3.2).
pub const MTU_MIN: u16 = 576;
/// IPv6 must work (RFC 8200 §5).
pub const MTU_MIN_V6: u16 = 1280;
/// Jumbo frames as switches have them.
pub const MTU_MAX: u16 = 9000;
/// Subnets of one network.
pub const SUBNETS_MAX: usize = 8;

/// What came of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// To be signed and spread; its address pool belongs to this node.
    New(NetworkDef),
    /// It is so already.
    Same(NetworkDef),
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// This node.
    pub node: NodeId,
    /// What it may do.
    pub role: Role,
    /// By the host's clock.
    pub wall: WallTime,
}

/// A network as it is to be. `winners`: the networks that hold, removed ones left out. `own`: every record that this node
/// ever signed about a network, tombstones too; serials go on from there.
///
/// # Errors
/// `Forbidden` without the admin's role, `Invalid` for subnets or an MTU that cannot be, `Conflict` if the name or the VNI
/// is taken. The message says what to do.
pub fn add<'a>(
    spec: &NetworkSpec,
    author: Author,
    winners: impl Iterator<Item = &'a NetworkDef> + Clone,
    own: impl Iterator<Item = &'a NetworkDef>,
) -> Result<Added, Refusal> {
    let name = &spec.name;
    check_subnets(name, &spec.subnets)?;
    let mtu = check_mtu(name, spec.mtu, &spec.subnets)?;
    let mut subnets = spec.subnets.clone();
    subnets.sort();
    if let Some(known) = winners.clone().find(|def| def.name == *name) {
        let mut known_subnets = known.subnets.clone();
        known_subnets.sort();
        let same_vni = spec.vni.is_none_or(|vni| vni == known.vni);
        let same_mtu = spec.mtu.is_none_or(|mtu| mtu == known.mtu);
        return if same_vni && same_mtu && known_subnets == subnets {
            Ok(Added::Same(known.clone()))
        } else {
            Err(refusal(
                ErrorCode::NetworkExists,
                format!(
                    "network {name} exists with another definition: {}; remove it first (`meshd network rm {name}`) or choose another name",
                    describe(known)
                ),
            ))
        };
    }
    check_name(name)?;
    if author.role != Role::Admin {
        return Err(refusal(
            ErrorCode::NotAdmin,
            format!(
                "this node may not define network {name}: it is no admin of the mesh; run the command on one (`meshd members` shows them)"
            ),
        ));
    }
    let vni = match spec.vni {
        Some(vni) => match winners.clone().find(|def| def.vni == vni) {
            Some(holder) => {
                return Err(refusal(
                    ErrorCode::VniTaken,
                    format!(
                        "VNI {vni} belongs to network {} already; name another, or none to have one chosen",
                        holder.name
                    ),
                ));
            }
            None => vni,
        },
        None => {
            free_vni(name, |vni| winners.clone().any(|def| def.vni == vni)).ok_or_else(|| {
                refusal(
                    ErrorCode::VniNoneFree,
                    format!("no VNI is free for network {name}; remove a network that is not used"),
                )
            })?
        }
    };
    Ok(Added::New(NetworkDef {
        author: author.node,
        serial: next_serial(own, vni, author.node),
        since: author.wall,
        vni,
        name: name.clone(),
        subnets: spec.subnets.clone(),
        mtu,
        removed: false,
    }))
}

/// The tombstone of a network, named by its name or VNI. `users`: names of the reachable nodes that advertise it.
///
/// # Errors
/// `NotFound`, `Forbidden` if it is not this node's to remove, `Conflict` if somebody uses it.
pub fn remove<'a>(
    network: &str,
    author: Author,
    winners: impl Iterator<Item = &'a NetworkDef> + Clone,
    own: impl Iterator<Item = &'a NetworkDef>,
    users: impl FnOnce(Vni) -> Vec<String>,
) -> Result<NetworkDef, Refusal> {
    let known = find(network, winners.clone()).ok_or_else(|| not_found(network, winners))?;
    let name = &known.name;
    if author.role != Role::Admin {
        return Err(refusal(
            ErrorCode::NotAdmin,
            format!(
                "this node may not remove network {name}: it is no admin of the mesh; run the command on one (`meshd members` shows them)"
            ),
        ));
    }
    if known.author != author.node {
        return Err(refusal(
            ErrorCode::NetworkNotOurs,
            format!(
                "network {name} was defined by node {}; only that node can remove it: run the command there",
                known.author.short()
            ),
        ));
    }
    let users = users(known.vni);
    if !users.is_empty() {
        return Err(refusal(
            ErrorCode::NetworkInUse,
            format!(
                "network {name} has ports on {}; detach them there first (`meshd ports`, `meshd detach`)",
                list(&users)
            ),
        ));
    }
    Ok(NetworkDef {
        serial: next_serial(own, known.vni, author.node).max(known.serial + 1),
        removed: true,
        ..known.clone()
    })
}

/// The network of this name or VNI.
pub fn find<'a>(
    network: &str,
    mut winners: impl Iterator<Item = &'a NetworkDef> + Clone,
) -> Option<&'a NetworkDef> {
    let folded = network.to_ascii_lowercase();
    // A name may be all digits, and goes before the number.
    winners
        .clone()
        .find(|def| def.name.as_str() == folded)
        .or_else(|| {
            network
                .parse()
                .ok()
                .and_then(|number: u32| winners.find(|def| def.vni.get() == number))
        })
}

/// That there is no such network, and which there are.
pub fn not_found<'a>(network: &str, winners: impl Iterator<Item = &'a NetworkDef>) -> Refusal {
    let mut names: Vec<&str> = winners.map(|def| def.name.as_str()).collect();
    names.sort_unstable();
    let shown = crate::ident::escape(network.as_bytes());
    let advice = if names.is_empty() {
        "there are none yet: define one with `meshd network add`".to_owned()
    } else {
        format!("there are: {}", list(&names))
    };
    refusal(
        ErrorCode::NetworkUnknown,
        format!("there is no network \"{shown}\"; {advice}"),
    )
}

/// At most eight of them, for messages.
fn list<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(8).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn describe(def: &NetworkDef) -> String {
    let subnets: Vec<String> = def.subnets.iter().map(ToString::to_string).collect();
    let subnets = if subnets.is_empty() {
        "no subnets".to_owned()
    } else {
        format!("subnets {}", subnets.join(", "))
    };
    format!("VNI {}, {subnets}, MTU {}", def.vni, def.mtu)
}

fn next_serial<'a>(own: impl Iterator<Item = &'a NetworkDef>, vni: Vni, me: NodeId) -> u64 {
    own.filter(|def| def.vni == vni && def.author == me)
        .map(|def| def.serial)
        .max()
        .unwrap_or(0)
        + 1
}

/// What of a definition is wrong whoever makes it, wherever: the key (`subnets`, `mtu`) and the message.
pub(crate) fn first_wrong(spec: &NetworkSpec) -> Option<(&'static str, String)> {
    if let Err(refused) = check_name(&spec.name) {
        return Some(("name", refused.message));
    }
    let subnets = check_subnets(&spec.name, &spec.subnets);
    let mtu = || check_mtu(&spec.name, spec.mtu, &spec.subnets);
    match subnets {
        Err(refused) => Some(("subnets", refused.message)),
        Ok(()) => mtu().err().map(|refused| ("mtu", refused.message)),
    }
}

/// A number would be taken for a VNI, and a VNI for it.
fn check_name(name: &Label) -> Result<(), Refusal> {
    match name.is_number() {
        true => Err(refusal(
            ErrorCode::NetworkNameInvalid,
            format!(
                "network {name}: a name of digits alone could be taken for a VNI; put a letter in it"
            ),
        )),
        false => Ok(()),
    }
}

fn check_subnets(name: &Label, subnets: &[IpNet]) -> Result<(), Refusal> {
    let invalid = |message: String| Err(refusal(ErrorCode::SubnetInvalid, message));
    if subnets.len() > SUBNETS_MAX {
        return invalid(format!(
            "network {name} has {} subnets; at most {SUBNETS_MAX} are possible",
            subnets.len()
        ));
    }
    for (at, net) in subnets.iter().enumerate() {
        let (low, high, kind) = match net {
            IpNet::V4(_) => (8, 30, "IPv4"),
            IpNet::V6(_) => (48, 126, "IPv6"),
        };
        if !(low..=high).contains(&net.prefix_len()) {
            return invalid(format!(
                "subnet {net} of network {name}: an {kind} subnet has a prefix of /{low} to /{high}"
            ));
        }
        if net.addr() != net.network() {
            return invalid(format!(
                "subnet {net} of network {name} has host bits set; did you mean {}?",
                net.trunc()
            ));
        }
        let odd = net.addr().is_multicast()
            || net.addr().is_loopback()
            || net.addr().is_unspecified()
            || matches!(net, IpNet::V4(net) if net.addr().octets()[0] >= 224 || net.addr().octets()[0] == 127 || net.addr().octets()[0] == 0)
            || matches!(net, IpNet::V6(net) if net.addr().segments()[0] & 0xffc0 == 0xfe80);
        if odd {
            return invalid(format!(
                "subnet {net} of network {name} is no range for hosts; use a private one such as 10.0.0.0/24 or fd00:1::/64"
            ));
        }
        if let Some(other) = subnets
            .iter()
            .take(at)
            .find(|other| other.contains(&net.network()) || net.contains(&other.network()))
        {
            return invalid(format!(
                "subnets {other} and {net} of network {name} overlap; make them disjoint"
            ));
        }
    }
    Ok(())
}

fn check_mtu(name: &Label, mtu: Option<u16>, subnets: &[IpNet]) -> Result<u16, Refusal> {
    let mtu = mtu.unwrap_or(MTU_DEFAULT);
    let v6 = subnets.iter().any(|net| matches!(net, IpNet::V6(_)));
    let min = if v6 { MTU_MIN_V6 } else { MTU_MIN };
    if (min..=MTU_MAX).contains(&mtu) {
        return Ok(mtu);
    }
    let because = if v6 { " (it has an IPv6 subnet)" } else { "" };
    Err(refusal(
        ErrorCode::MtuInvalid,
        format!("MTU {mtu} of network {name}: it must be {min} to {MTU_MAX}{because}"),
    ))
}

/// FNV-1a over the name, cut to 24 bits, and on from there to the first that is free.
fn free_vni(name: &Label, taken: impl Fn(Vni) -> bool) -> Option<Vni> {
    const COUNT: u64 = (1 << 24) - 1;
    let hash = name
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let start = (hash ^ (hash >> 32)) % COUNT;
    // There are far fewer networks than that; the bound is for the reader.
    (0..65_536u64)
        .filter_map(|step| Vni::new(u32::try_from((start + step) % COUNT + 1).ok()?).ok())
        .find(|&vni| !taken(vni))
}

fn refusal(code: ErrorCode, message: String) -> Refusal {
    Refusal { code, message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::code::RefusalKind;
    use proptest::prelude::*;

    const ADMIN: Author = Author {
        node: NodeId([1; 32]),
        role: Role::Admin,
        wall: WallTime(5),
    };

    fn spec(name: &str, subnets: &[&str]) -> NetworkSpec {
        NetworkSpec {
            name: name.parse().unwrap(),
            vni: None,
            subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
            mtu: None,
        }
    }

    fn new(spec: &NetworkSpec, known: &[NetworkDef]) -> Result<NetworkDef, Refusal> {
        match add(
            spec,
            ADMIN,
            known.iter().filter(|d| !d.removed),
            known.iter(),
        )? {
            Added::New(def) => Ok(def),
            Added::Same(def) => panic!("{def:?}"),
        }
    }

    fn message(spec: &NetworkSpec) -> String {
        let refusal = new(spec, &[]).unwrap_err();
        assert_eq!(refusal.kind(), RefusalKind::Invalid);
        refusal.message
    }

    #[test]
    fn the_same_definition_again_is_the_same_network() {
        let wish = spec("blue", &["10.0.0.0/24", "fd00::/64"]);
        let def = new(&wish, &[]).unwrap();
        assert_eq!(def.mtu, MTU_DEFAULT);
        let turned = spec("blue", &["fd00::/64", "10.0.0.0/24"]);
        for wish in [wish, turned] {
            assert_eq!(
                add(&wish, ADMIN, [&def].into_iter(), [&def].into_iter()).unwrap(),
                Added::Same(def.clone())
            );
        }
        // Also for one who could not define it.
        let member = Author {
            role: Role::Member,
            ..ADMIN
        };
        assert_eq!(
            add(
                &spec("blue", &["10.0.0.0/24", "fd00::/64"]),
                member,
                [&def].into_iter(),
                [].into_iter()
            )
            .unwrap(),
            Added::Same(def)
        );
    }

    #[test]
    fn another_definition_of_a_known_name_is_a_conflict_that_shows_the_known_one() {
        let def = new(&spec("blue", &["10.0.0.0/24"]), &[]).unwrap();
        let refusal = new(&spec("blue", &["10.0.1.0/24"]), std::slice::from_ref(&def)).unwrap_err();
        assert_eq!(refusal.kind(), RefusalKind::Conflict);
        assert!(refusal.message.contains("subnets 10.0.0.0/24"), "{refusal}");
        let taken = NetworkSpec {
            vni: Some(def.vni),
            ..spec("red", &[])
        };
        let refusal = new(&taken, &[def]).unwrap_err();
        assert!(
            refusal.message.contains("belongs to network blue"),
            "{refusal}"
        );
    }

    #[test]
    fn the_vni_follows_the_name_and_moves_on_where_taken() {
        let first = new(&spec("blue", &[]), &[]).unwrap();
        assert_eq!(new(&spec("blue", &[]), &[]).unwrap().vni, first.vni);
        let squatter = NetworkDef {
            name: "red".parse().unwrap(),
            ..first.clone()
        };
        assert_eq!(
            new(&spec("blue", &[]), &[squatter]).unwrap().vni.get(),
            first.vni.get() % ((1 << 24) - 1) + 1
        );
    }

    #[test]
    fn what_cannot_be_a_subnet_is_refused_with_advice() {
        assert!(message(&spec("b", &["10.0.0.5/24"])).contains("did you mean 10.0.0.0/24?"));
        assert!(message(&spec("b", &["10.0.0.0/24", "10.0.0.0/16"])).contains("overlap"));
        assert!(message(&spec("b", &["10.0.0.0/31"])).contains("/8 to /30"));
        assert!(message(&spec("b", &["fd00::/32"])).contains("/48 to /126"));
        for odd in [
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "fe80::/64",
            "ff02::/64",
            "240.0.0.0/8",
            "::/64",
        ] {
            assert!(
                message(&spec("b", &[odd])).contains("no range for hosts"),
                "{odd}"
            );
        }
        let nine: Vec<String> = (0..9).map(|n| format!("10.0.{n}.0/24")).collect();
        assert!(
            message(&spec(
                "b",
                &nine.iter().map(String::as_str).collect::<Vec<_>>()
            ))
            .contains("at most 8")
        );
    }

    #[test]
    fn the_mtu_has_bounds_that_depend_on_the_family() {
        let with = |mtu, subnets: &[&str]| NetworkSpec {
            mtu: Some(mtu),
            ..spec("b", subnets)
        };
        assert!(new(&with(576, &["10.0.0.0/24"]), &[]).is_ok());
        assert!(new(&with(9000, &["fd00::/64"]), &[]).is_ok());
        for (mtu, subnets) in [
            (575, &["10.0.0.0/24"]),
            (9001, &["10.0.0.0/24"]),
            (1279, &["fd00::/64"]),
        ] {
            assert!(message(&with(mtu, subnets)).contains("it must be"), "{mtu}");
        }
    }

    #[test]
    fn only_an_admin_defines_and_only_the_author_removes_and_only_what_nobody_uses() {
        let member = Author {
            role: Role::Member,
            ..ADMIN
        };
        assert_eq!(
            add(&spec("b", &[]), member, [].into_iter(), [].into_iter())
                .unwrap_err()
                .kind(),
            RefusalKind::Forbidden
        );
        let def = new(&spec("b", &[]), &[]).unwrap();
        let rm = |author, text: &str, users: Vec<String>| {
            remove(text, author, [&def].into_iter(), [&def].into_iter(), |_| {
                users
            })
        };
        assert_eq!(
            rm(member, "b", vec![]).unwrap_err().kind(),
            RefusalKind::Forbidden
        );
        let other = Author {
            node: NodeId([2; 32]),
            ..ADMIN
        };
        assert!(
            rm(other, "b", vec![])
                .unwrap_err()
                .message
                .contains("run the command there")
        );
        assert!(
            rm(ADMIN, "b", vec!["host-a".into()])
                .unwrap_err()
                .message
                .contains("has ports on host-a")
        );
        assert!(
            rm(ADMIN, "nope", vec![])
                .unwrap_err()
                .message
                .contains("there are: b")
        );
        let gone = rm(ADMIN, &def.vni.to_string(), vec![]).unwrap();
        assert!(gone.removed && gone.serial == def.serial + 1);
        // Defined anew, it goes on counting, and the old definition cannot come back over it.
        assert_eq!(
            new(&spec("b", &[]), std::slice::from_ref(&gone))
                .unwrap()
                .serial,
            gone.serial + 1
        );
    }

    #[test]
    fn a_name_that_is_a_number_is_refused() {
        let refused = new(&spec("3049663", &[]), &[]).unwrap_err();
        assert_eq!(refused.kind(), RefusalKind::Invalid);
        assert!(refused.message.contains("taken for a VNI"), "{refused}");
        assert!(new(&spec("3049663a", &[]), &[]).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_room_for_the_service_and_one_port(bits: u32, prefix in 0u8..=32, v6: u128, prefix6 in 0u8..=128) {
            let v4 = ipnet::Ipv4Net::new(bits.into(), prefix).unwrap();
            let v6 = ipnet::Ipv6Net::new(v6.into(), prefix6).unwrap();
            for net in [IpNet::from(v4), IpNet::from(v6), IpNet::from(v4.trunc()), IpNet::from(v6.trunc())] {
                let wish = NetworkSpec { subnets: vec![net], ..spec("b", &[]) };
                if new(&wish, &[]).is_ok() {
                    prop_assert!(crate::ranges::leasable(&net).is_some());
                    prop_assert!(crate::ranges::service_address(&net).is_some());
                }
            }
        }
    }
}
