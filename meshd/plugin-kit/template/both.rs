//! Lets nobody speak but the stations of ports with the label `speaker`. The controller sees the ports, the policy the frames.

use meshd_sdk::controller::{Commit, Event, FactChange, FactMap, Host};
use meshd_sdk::prelude::*;
use std::collections::BTreeMap;

#[derive(Config)]
/// Lets nobody speak but the stations of ports with the label `speaker`.
struct Speakers {
    #[config(skip)]
    may: FactMap<Mac, ()>,
}

#[policy(stage = "guard", fail = "closed")]
impl Policy for Speakers {
    fn update(&mut self, change: &FactChange) {
        self.may.apply("may/", change);
    }

    fn decide(&self, key: &Key) -> Verdict {
        if self.may.get(&key.src_mac()).is_some() {
            next()
        } else {
            drop("no-speaker")
        }
    }
}

struct Watch {
    speakers: BTreeMap<u32, Mac>,
}

#[controller(topology, flows)]
impl Controller for Watch {
    type Config = Speakers;

    fn new(_: Speakers, _: &Host) -> Result<Self, Vec<ConfigError>> {
        Ok(Self {
            speakers: BTreeMap::new(),
        })
    }

    fn on_event(&mut self, event: Event, host: &Host) {
        let commit = match event {
            Event::PortAdded(port) if port.label("speaker").is_some() => {
                self.speakers.insert(port.id, port.mac);
                Commit::new().put("may/", &port.mac, &())
            }
            Event::PortRemoved(id) => match self.speakers.remove(&id) {
                Some(mac) => Commit::new().forget("may/", &mac),
                None => return,
            },
            _ => return,
        };
        host.warn_if(host.commit(commit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_sdk::test::{controlled, pkt};

    #[test]
    fn a_port_with_the_label_may_speak() {
        let mut world = controlled::<Watch>("{}").expect("an empty config");
        let port = world.port(3, "02:00:00:00:00:03", &[]);
        port.label("speaker", "yes").arrives();
        let policy = world.policy::<Speakers>();
        policy
            .send(pkt!(tcp 10.0.0.3:1 > 10.0.0.2:23 syn mac 02:00:00:00:00:03 > 02:00:00:00:00:02))
            .passes();
        policy
            .send(pkt!(tcp 10.0.0.4:1 > 10.0.0.2:23 syn mac 02:00:00:00:00:04 > 02:00:00:00:00:02))
            .drops("no-speaker");
        policy.sound(1_000);
        world.remove_port(3);
        world
            .policy::<Speakers>()
            .send(pkt!(tcp 10.0.0.3:1 > 10.0.0.2:23 syn mac 02:00:00:00:00:03 > 02:00:00:00:00:02))
            .drops("no-speaker");
    }
}
