//! `meshd devices` as a table.

use super::{clean, list, table};
use meshd_core::view::{ByteText, Device, DeviceSource, DeviceState};
use std::fmt::Write as _;

pub(in super::super) fn devices(devices: &[Device]) -> String {
    let names = |names: &[ByteText]| list(&names.iter().map(|name| &name.text).collect::<Vec<_>>());
    let rows = devices.iter().map(|device| {
        let state = match device.state {
            DeviceState::Ready => "ready",
            DeviceState::Partial => "partial",
            DeviceState::Waiting => "waiting",
            DeviceState::Failed => "failed",
            DeviceState::Left => "left",
        };
        let source = match device.source {
            Some(DeviceSource::File) => "file",
            Some(DeviceSource::Api) => "api",
            None => "-",
        };
        let carrier = match (device.there, device.up, device.carrier) {
            (false, ..) => "-",
            (_, false, _) => "down",
            (_, _, false) => "no carrier",
            _ => "up",
        };
        let members = match &device.active {
            Some(active) => format!("{}, by {}", names(&device.members), active.text),
            None => names(&device.members),
        };
        vec![
            device.name.text.clone(),
            device.kind.clone(),
            source.to_owned(),
            carrier.to_owned(),
            list(&device.addresses),
            members,
            state.to_owned(),
        ]
    });
    let empty = "no host devices; `meshd device add`, or [[device.dummy]], [[device.bond]], [[device.vlan]], [[device.bridge]], [[device.macvlan]] and [[device.macvtap]] in the config file declare them";
    let head = [
        "DEVICE",
        "KIND",
        "FROM",
        "LINK",
        "ADDRESSES",
        "MEMBERS",
        "STATE",
    ];
    let mut out = table(&head, rows, empty);
    for device in devices {
        for (what, of_it) in [
            ("file", device.file.as_ref().map(|file| file.text.clone())),
            ("in", device.netns.as_ref().map(|netns| netns.text.clone())),
            ("service", device.service.clone()),
            (
                "reaches",
                Some(list(&device.routes)).filter(|_| !device.routes.is_empty()),
            ),
        ] {
            if let Some(of_it) = of_it {
                let _ = writeln!(
                    out,
                    "{}: {what} {}",
                    clean(&device.name.text),
                    clean(&of_it)
                );
            }
        }
        for why in &device.why {
            let _ = writeln!(out, "{}: {}", clean(&device.name.text), clean(why));
        }
    }
    out
}
