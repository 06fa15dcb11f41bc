//! What a new configuration changes in a running daemon, and what only at its next start.

use super::Config;

/// What a new file changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigDiff {
    /// Keys that take effect at once.
    pub live: Vec<&'static str>,
    /// Keys that take effect at the next start of the daemon.
    pub restart: Vec<&'static str>,
}

impl ConfigDiff {
    /// What differs between the running configuration and a new one.
    #[must_use]
    pub fn between(running: &Config, new: &Config) -> Self {
        let mut diff = Self::default();
        let mut note = |differs: bool, live: bool, key: &'static str| {
            if differs {
                if live {
                    diff.live.push(key)
                } else {
                    diff.restart.push(key)
                }
            }
        };
        note(
            running.underlay.listen != new.underlay.listen,
            false,
            "underlay.listen",
        );
        note(
            running.underlay.advertise != new.underlay.advertise,
            false,
            "underlay.advertise",
        );
        note(
            running.underlay.trusted != new.underlay.trusted,
            true,
            "underlay.trusted",
        );
        note(
            running.underlay.vxlan_port != new.underlay.vxlan_port,
            false,
            "underlay.vxlan_port",
        );
        note(
            running.underlay.links != new.underlay.links,
            false,
            "underlay.link",
        );
        note(
            running.kernel.fast_path != new.kernel.fast_path,
            true,
            "kernel.fast_path",
        );
        note(
            running.kernel.bridge_filter != new.kernel.bridge_filter,
            true,
            "kernel.bridge_filter",
        );
        note(
            running.kernel.superframes != new.kernel.superframes,
            false,
            "kernel.superframes",
        );
        note(
            running.datapath.threads != new.datapath.threads,
            false,
            "datapath.threads",
        );
        note(
            running.datapath.queues != new.datapath.queues,
            false,
            "datapath.queues",
        );
        note(running.dns.enabled != new.dns.enabled, false, "dns.enabled");
        note(running.dns.domain != new.dns.domain, false, "dns.domain");
        note(
            running.dns.upstream != new.dns.upstream,
            false,
            "dns.upstream",
        );
        note(
            running.dns.services != new.dns.services,
            true,
            "dns.services",
        );
        note(running.dns.service != new.dns.service, true, "dns.service");
        note(
            running.limits.macs_per_port != new.limits.macs_per_port,
            false,
            "limits.macs_per_port",
        );
        note(
            running.limits.bum_per_second != new.limits.bum_per_second,
            false,
            "limits.bum_per_second",
        );
        note(
            running.limits.ports != new.limits.ports,
            false,
            "limits.ports",
        );
        note(
            running.plugins.trusted != new.plugins.trusted,
            false,
            "plugins.trusted",
        );
        note(
            running.plugins.require_signature != new.plugins.require_signature,
            false,
            "plugins.require_signature",
        );
        note(running.api != new.api, false, "api");
        note(running.log.level != new.log.level, true, "log.level");
        note(running.log.format != new.log.format, false, "log.format");
        note(running.telemetry != new.telemetry, false, "telemetry.otlp");
        note(running.device != new.device, true, "device");
        note(running.networks != new.networks, true, "network");
        diff
    }

    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}
