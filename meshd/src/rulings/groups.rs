//! The groups and named flood sets of an attachment: a plugin's numbers become ways and receivers.
//!
//! ```json
//! { "groups": [ { "name": "web", "kind": "select", "buckets": [ { "port": 3 }, { "set-dst-mac": "02:00:00:00:00:07", "weight": 2 } ] } ],
//!   "flood-sets": [ { "name": "floor-1", "ports": [3, 4], "peers": ["aerukz4j…"] } ] }
//! ```
//!
//! Two sources: the keys `groups` and `flood-sets` of the config, where the number is the place in the list, and what is put at
//! run time under a number, which stands before that and lasts as long as the attachment. Owns both, and their bounds. Refuses a
//! number that nobody made; that is a fault of the plugin. Who changes something at run time tells the node by
//! [`Command::PolicyInvalidate`](meshd_core::command::Command::PolicyInvalidate), so that no frame obeys what was.

use super::declares;
use meshd_core::edit::Edit;
use meshd_core::group::{BUCKETS_MAX, Bucket, BucketTarget, Group, GroupKind};
use meshd_core::ident::{Label, MacAddr, NodeId, PortId};
use meshd_core::policy::FloodSet;
use meshd_plugin_host::{Decision, Fault};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Groups, and flood sets, of one attachment, by config and at run time each.
const GROUPS_MAX: usize = 256;
/// Receivers of one flood set.
const MEMBERS_MAX: usize = 4096;
/// Letters of a name.
const NAME_MAX: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Declared {
    #[serde(default)]
    groups: Vec<GroupDeclaration>,
    #[serde(default)]
    flood_sets: Vec<SetDeclaration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct GroupDeclaration {
    name: String,
    #[serde(default = "select")]
    kind: GroupKind,
    buckets: Vec<BucketDeclaration>,
}

fn select() -> GroupKind {
    GroupKind::Select
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct BucketDeclaration {
    port: Option<PortId>,
    peer: Option<NodeId>,
    #[serde(default)]
    drop: bool,
    set_dst_mac: Option<MacAddr>,
    #[serde(default = "one")]
    weight: u16,
}

fn one() -> u16 {
    1
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SetDeclaration {
    name: String,
    #[serde(default)]
    ports: Vec<PortId>,
    #[serde(default)]
    peers: Vec<NodeId>,
}

/// The groups and flood sets of one config.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Arc<Group>>,
    sets: Vec<FloodSet>,
}

impl Groups {
    /// Those that `config` declares.
    pub(super) fn of(plugin: &Label, config: &str) -> Result<Self, String> {
        if !declares(config) {
            return Ok(Self::default());
        }
        let Declared { groups, flood_sets } = serde_json::from_str(config).map_err(|e| {
            format!(
                "its `groups` and `flood-sets` cannot be read: {e}; see docs/plugins/actions.md"
            )
        })?;
        for (what, count) in [("groups", groups.len()), ("flood-sets", flood_sets.len())] {
            if count > GROUPS_MAX {
                return Err(format!(
                    "it declares {count} `{what}`; at most {GROUPS_MAX} are kept"
                ));
            }
        }
        let mut out = Self::default();
        for (at, declared) in groups.into_iter().enumerate() {
            let group = declared.check(plugin);
            let group = group.map_err(|what| format!("at /groups/{at}{what}"))?;
            out.groups.push(Arc::new(group));
        }
        for (at, declared) in flood_sets.into_iter().enumerate() {
            check_name(&declared.name).map_err(|what| format!("at /flood-sets/{at}: {what}"))?;
            let set = FloodSet {
                ports: declared.ports.into_iter().collect(),
                peers: declared.peers.iter().map(NodeId::handle).collect(),
            };
            check_set(&set).map_err(|what| format!("at /flood-sets/{at}: {what}"))?;
            out.sets.push(set);
        }
        Ok(out)
    }

    /// Gives a decision the group and the flood set that it names; what was put at run time stands first.
    pub(super) fn resolve(&self, put: &Kept, mut decision: Decision) -> Result<Decision, Fault> {
        let unknown = |what: &str, number: u32| Fault::Verdict {
            what: format!(
                "it names {what} {number}, which its config does not declare and its controller has not made; the config's first is 0"
            ),
        };
        let place = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(number) = decision.group {
            let group = put.groups.get(&number).cloned();
            let group = group.or_else(|| self.groups.get(place(number)).cloned());
            decision.orders.group = Some(group.ok_or_else(|| unknown("group", number))?);
        }
        if let Some(number) = decision.flood_set {
            let set = put.sets.get(&number).cloned();
            let set = set.or_else(|| self.sets.get(place(number)).cloned());
            decision.orders.flood = Some(set.ok_or_else(|| unknown("flood set", number))?);
        }
        Ok(decision)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        true => Err(format!(
            "a name has 1 to {NAME_MAX} letters, digits, and `-`, `_` or `.`"
        )),
        false => Ok(()),
    }
}

fn check_set(set: &FloodSet) -> Result<(), String> {
    let members = set.ports.len() + set.peers.len();
    match members > MEMBERS_MAX {
        true => Err(format!("it has {members} members; at most {MEMBERS_MAX}")),
        false => Ok(()),
    }
}

fn check_group(group: &Group) -> Result<(), String> {
    let buckets = group.buckets.len();
    match buckets > BUCKETS_MAX {
        true => Err(format!(
            "it has {buckets} buckets; at most {BUCKETS_MAX} are possible"
        )),
        false => Ok(()),
    }
}

impl GroupDeclaration {
    fn check(self, plugin: &Label) -> Result<Group, String> {
        check_name(&self.name).map_err(|what| format!(": {what}"))?;
        let buckets = self.buckets.into_iter().enumerate().map(|(at, declared)| {
            let bucket = declared.check();
            bucket.map_err(|what| format!("/buckets/{at}: {what}"))
        });
        let group = Group {
            name: format!("{plugin}/{}", self.name).into(),
            kind: self.kind,
            buckets: buckets.collect::<Result<_, _>>()?,
        };
        check_group(&group).map_err(|what| format!(": {what}"))?;
        Ok(group)
    }
}

impl BucketDeclaration {
    fn check(self) -> Result<Bucket, String> {
        let to = match (self.port, self.peer, self.drop) {
            (Some(port), None, false) => BucketTarget::Port(port),
            (None, Some(peer), false) => BucketTarget::Peer(peer.handle()),
            (None, None, true) => BucketTarget::Drop,
            (None, None, false) if self.set_dst_mac.is_some() => BucketTarget::Next,
            _ => {
                return Err(
                    "give one of `port`, `peer` and `\"drop\": true`, or `set-dst-mac` alone"
                        .to_owned(),
                );
            }
        };
        Ok(Bucket {
            weight: self.weight,
            to,
            edits: self.set_dst_mac.map(Edit::SetDstMac).into_iter().collect(),
        })
    }
}

/// Groups and flood sets that were put at run time; they last as long as the attachment.
#[derive(Debug, Default)]
pub(crate) struct Put(Mutex<Kept>);

/// What is put at run time.
pub(crate) enum PutChange {
    /// Makes or changes a group; one without ways goes away, and what the config declares under that number stands again.
    Group(u32, Group),
    /// Makes or changes a flood set; an empty one floods to nobody.
    FloodSet(u32, FloodSet),
}

/// All that is put.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    groups: BTreeMap<u32, Arc<Group>>,
    sets: BTreeMap<u32, FloodSet>,
}

impl Put {
    /// All that is there now.
    pub(crate) fn all(&self) -> Kept {
        self.kept().clone()
    }

    /// The same, while it is held.
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of these on top of what is there, or nothing; it holds once it is published.
    pub(crate) fn prepare(&self, changes: Vec<PutChange>) -> Result<Kept, String> {
        let mut kept = self.kept().clone();
        for change in changes {
            match change {
                PutChange::Group(number, group) if group.buckets.is_empty() => {
                    kept.groups.remove(&number);
                }
                PutChange::Group(number, group) => {
                    check_group(&group).map_err(|why| format!("group {number}: {why}"))?;
                    kept.groups.insert(number, Arc::new(group));
                }
                PutChange::FloodSet(number, set) => {
                    check_set(&set).map_err(|why| format!("flood set {number}: {why}"))?;
                    kept.sets.insert(number, set);
                }
            }
        }
        if kept.groups.len() > GROUPS_MAX || kept.sets.len() > GROUPS_MAX {
            return Err(format!(
                "there may be {GROUPS_MAX} groups and {GROUPS_MAX} flood sets"
            ));
        }
        Ok(kept)
    }

    /// What was prepared holds. One controller writes, so nothing came between.
    pub(crate) fn publish(&self, kept: Kept) {
        *self.kept() = kept;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(config: &str) -> Result<Groups, String> {
        Groups::of(&"vip".parse().unwrap(), config)
    }

    #[test]
    fn groups_and_flood_sets_are_read_from_a_config_that_has_other_things_in_it_too() {
        let node = NodeId([7; 32]);
        let groups = of(&format!(
            r#"{{"rules": [1], "flood-sets": [{{"name": "floor", "ports": [3], "peers": ["{node}"]}}], "groups": [
                {{"name": "web", "buckets": [{{"port": 3}}, {{"peer": "{node}", "weight": 2}}, {{"set-dst-mac": "02:00:00:00:00:07"}}]}},
                {{"name": "spare", "kind": "failover", "buckets": [{{"drop": true}}]}}]}}"#
        ))
        .unwrap();
        let web = &groups.groups[0];
        assert_eq!((&*web.name, web.kind), ("vip/web", GroupKind::Select));
        let to: Vec<_> = web.buckets.iter().map(|one| (one.to, one.weight)).collect();
        assert_eq!(
            to,
            [
                (BucketTarget::Port(PortId(3)), 1),
                (BucketTarget::Peer(node.handle()), 2),
                (BucketTarget::Next, 1)
            ]
        );
        assert_eq!(groups.groups[1].kind, GroupKind::Failover);
        assert_eq!(groups.sets[0].peers, [node.handle()].into());
        assert!(of("{}").unwrap().groups.is_empty() && of("").unwrap().sets.is_empty());
    }

    #[test]
    fn a_declaration_that_is_none_is_refused_with_its_place() {
        let bucket =
            |bucket: &str| format!(r#"{{"groups": [{{"name": "a", "buckets": [{bucket}]}}]}}"#);
        for (config, said) in [
            (bucket("{}"), "at /groups/0/buckets/0: give one of"),
            (bucket(r#"{"port": 1, "drop": true}"#), "give one of"),
            (bucket(r#"{"port": 1, "vlan": 1}"#), "vlan"),
            (
                bucket(&[r#"{"port": 1}"#; 65].join(",")),
                "it has 65 buckets",
            ),
            (
                r#"{"groups": [{"name": "a b", "buckets": []}]}"#.to_owned(),
                "a name has",
            ),
            (
                r#"{"flood-sets": [{"name": ""}]}"#.to_owned(),
                "at /flood-sets/0: a name has",
            ),
            (r#"{"flood-sets": 7}"#.to_owned(), "cannot be read"),
        ] {
            let error = of(&config).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_put_at_run_time_stands_before_the_config_until_it_is_taken_away() {
        let (declared, put) = (
            of(r#"{"groups": [{"name": "a", "buckets": [{"port": 1}]}]}"#).unwrap(),
            Put::default(),
        );
        let port = |n| Group {
            name: "made".into(),
            kind: GroupKind::Select,
            buckets: vec![Bucket {
                weight: 1,
                to: BucketTarget::Port(PortId(n)),
                edits: Vec::new(),
            }],
        };
        let write = |changes: Vec<PutChange>| put.prepare(changes).map(|kept| put.publish(kept));
        write(vec![PutChange::Group(0, port(9))]).unwrap();
        assert_eq!(put.kept().groups[&0].name.as_ref(), "made");
        let none = Group {
            buckets: Vec::new(),
            ..port(9)
        };
        write(vec![PutChange::Group(0, none)]).unwrap();
        assert!(!put.kept().groups.contains_key(&0));
        assert_eq!(declared.groups.len(), 1);
        let set = |n| PutChange::FloodSet(n, FloodSet::default());
        write((0..256).map(set).collect()).unwrap();
        let many = (0..257).map(|n| PutChange::Group(n, port(1))).collect();
        assert!(write(many).unwrap_err().contains("256 groups"));
        assert!(!put.kept().groups.contains_key(&0), "all or nothing");
        assert!(write(vec![set(256)]).is_err());
        write(vec![set(255), PutChange::Group(9, port(1))]).unwrap();
        assert!(put.kept().groups.contains_key(&9));
    }
}
