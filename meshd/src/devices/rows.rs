//! What is told of the host's devices: their rows for `meshd devices`, and the services at their addresses.
//!
//! Owns how wish, sight, plan and failure become one row.

use ipnet::IpNet;
use meshd_core::config::Merged;
use meshd_core::devices::{Plan, Scene, Seen, Shape, Wish, Wishes};
use meshd_core::ident::{IfName, Label};
use meshd_core::view::{ByteText, Device, DeviceSource, DeviceState};
use meshd_core::wire::record::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The rows as they are told: with who declared what, those that do not count, and those that nobody has looked at yet.
pub(crate) fn told(looked: &[Device], merged: &Merged) -> Vec<Device> {
    let mut rows: BTreeMap<String, Device> = looked
        .iter()
        .map(|row| (row.name.text.clone(), row.clone()))
        .collect();
    for (name, (source, declared)) in &merged.counts {
        // What the file says is told once it was looked at; a PUT is answered in any case.
        if *source == DeviceSource::File && !rows.contains_key(&name.to_string()) {
            continue;
        }
        let row = rows.entry(name.to_string()).or_insert_with(|| {
            let why = "declared a moment ago; it is made now".to_owned();
            blank(name.name(), declared.kind(), why)
        });
        row.source = Some(*source);
        row.declared = Some(declared.clone());
    }
    for (name, (declared, why)) in &merged.left_out {
        let row = rows
            .entry(name.to_string())
            .or_insert_with(|| blank(name.name(), declared.kind(), String::new()));
        row.why.retain(|why| !why.is_empty());
        row.why.push(why.clone());
        if row.source.is_none() {
            row.source = Some(DeviceSource::Api);
            row.declared = Some(declared.clone());
        } else if row.state == DeviceState::Ready {
            row.state = DeviceState::Partial;
        }
    }
    rows.into_values().collect()
}

fn blank(name: &IfName, kind: &str, why: String) -> Device {
    Device {
        name: ByteText::of(name.as_bytes()),
        kind: kind.to_owned(),
        source: None,
        declared: None,
        state: DeviceState::Waiting,
        why: vec![why],
        there: false,
        up: false,
        carrier: false,
        addresses: Vec::new(),
        mac: None,
        mtu: None,
        members: Vec::new(),
        active: None,
        master: None,
        netns: None,
        ifname: None,
        file: None,
        service: None,
        routes: Vec::new(),
    }
}

/// What answers at addresses that are there now.
pub(super) fn services(scene: &Scene, wishes: &Wishes) -> Vec<Service> {
    let mut found: BTreeMap<&Label, BTreeSet<IpAddr>> = BTreeMap::new();
    for (name, wish) in wishes {
        let (Some(service), Some(seen)) = (&wish.service, scene.get(name)) else {
            continue;
        };
        if seen.ours && seen.up && seen.place == wish.place {
            let there = |address: &&IpNet| seen.addresses.contains_key(address);
            let ips = wish.addresses.iter().filter(there).map(IpNet::addr);
            found.entry(service).or_default().extend(ips);
        }
    }
    let found = found.into_iter().filter(|(_, ips)| !ips.is_empty());
    found
        .map(|(name, ips)| Service {
            name: name.clone(),
            ips: ips.into_iter().collect(),
        })
        .collect()
}

pub(super) fn row(
    name: &IfName,
    scene: &Scene,
    wish: Option<&Wish>,
    plan: &Plan,
    failure: Option<&String>,
) -> Device {
    let seen = scene.get(name);
    let is_there =
        seen.is_some_and(|seen| seen.ours || wish.is_some_and(|wish| wish.shape == Shape::Adopted));
    let mut why: Vec<String> = failure.into_iter().cloned().collect();
    why.extend(plan.waits.get(name).cloned());
    why.extend(plan.lacks.get(name).into_iter().flatten().cloned());
    let file = seen.and_then(|seen| seen.file.as_ref());
    why.extend(file.and_then(|file| file.as_ref().err()).cloned());
    let state = match (failure, wish) {
        (_, None) => DeviceState::Left,
        (Some(_), _) => DeviceState::Failed,
        _ if plan.waits.contains_key(name) => DeviceState::Waiting,
        _ if !why.is_empty() => DeviceState::Partial,
        _ => DeviceState::Ready,
    };
    let blank = Seen::default();
    let seen = seen.filter(|_| is_there).unwrap_or(&blank);
    let text = |name: &IfName| ByteText::of(name.as_bytes());
    let place = match wish {
        Some(wish) => wish.place.as_ref(),
        None => seen.place.as_ref(),
    };
    let wished = |wish: &Wish| wish.shape.to_string();
    let members = scene
        .iter()
        .filter(|(_, seen)| is_there && seen.master.as_ref() == Some(name));
    Device {
        name: text(name),
        kind: wish.map_or_else(
            || {
                seen.shape
                    .as_ref()
                    .map_or_else(|| seen.kind.clone(), ToString::to_string)
            },
            wished,
        ),
        source: None,
        declared: None,
        state,
        why,
        there: is_there,
        up: seen.up,
        carrier: seen.carrier,
        addresses: seen.addresses.keys().copied().collect(),
        mac: seen.mac,
        mtu: is_there.then_some(seen.mtu),
        members: members.map(|(name, _)| text(name)).collect(),
        active: seen.active.as_ref().map(text),
        master: seen.master.as_ref().map(text),
        netns: place.map(|place| ByteText::of(place.netns.path())),
        ifname: place.map(|place| text(&place.ifname)),
        file: file
            .and_then(|file| file.as_ref().ok())
            .map(|path| ByteText::of(path)),
        service: wish
            .and_then(|wish| wish.service.as_ref())
            .map(ToString::to_string),
        routes: seen.routes.iter().map(|route| route.to).collect(),
    }
}
