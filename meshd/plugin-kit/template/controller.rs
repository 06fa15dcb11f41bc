//! Says in its log which ports come and go, and counts them. A controller alone: no frame is asked about.

use meshd_sdk::controller::{Event, Host};
use meshd_sdk::prelude::*;
use std::collections::BTreeMap;

#[derive(Config)]
/// Says which ports come and go.
struct Settings {
    /// What each line begins with.
    #[config(default = "")]
    prefix: String,
}

struct Watch {
    prefix: String,
    names: BTreeMap<u32, String>,
}

#[controller(log, metrics, topology)]
impl Controller for Watch {
    type Config = Settings;

    fn new(config: Settings, _: &Host) -> Result<Self, Vec<ConfigError>> {
        Ok(Self {
            prefix: config.prefix,
            names: BTreeMap::new(),
        })
    }

    fn on_event(&mut self, event: Event, host: &Host) {
        match event {
            Event::PortAdded(port) => {
                host.info(&format!("{}{} is there", self.prefix, port.name));
                self.names.insert(port.id, port.name);
            }
            Event::PortRemoved(id) => {
                let name = self.names.remove(&id).unwrap_or_default();
                host.info(&format!("{}{name} is gone", self.prefix));
            }
            _ => return,
        }
        host.gauge("ports", self.names.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_sdk::test::controlled;

    #[test]
    fn ports_are_named_as_they_come_and_go() {
        let mut world = controlled::<Watch>(r#"{"prefix":"lan: "}"#).expect("a config");
        world.port(3, "02:00:00:00:00:03", &[]).arrives();
        world.remove_port(3);
        assert_eq!(world.lines(), ["lan: port-3 is there", "lan: port-3 is gone"]);
        assert_eq!(world.figure("ports"), Some(0));
    }
}
