use super::place::TEXT_MAX;
use super::*;
use crate::ident::Vni;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../../../examples/config/meshd.toml");

#[test]
fn the_example_has_every_key_at_its_default() {
    assert_eq!(Config::parse(EXAMPLE).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
    let written = toml::to_string(&Config::default()).unwrap();
    for key in written
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
    {
        assert!(
            EXAMPLE.contains(&format!("\n{key} = "))
                || EXAMPLE.contains(&format!(".{key}]]"))
                || key == "network",
            "{key} is missing in the example"
        );
    }
}

#[test]
fn what_the_example_has_in_comments_is_valid_too() {
    // Commented settings are indented, so that prose is not mistaken for them.
    let open: String = EXAMPLE
        .lines()
        .filter(|line| {
            ![
                "advertise = []",
                "upstream = []",
                "trusted = []",
                "read = []",
                "change = []",
            ]
            .contains(line)
        })
        .map(|line| line.strip_prefix("#   ").unwrap_or(line).to_owned() + "\n")
        .collect();
    let config = Config::parse(&open).unwrap();
    assert_eq!(config.networks[0].vni, Some(Vni::new(4711).unwrap()));
    assert_eq!(config.dns.upstream[0].0, "9.9.9.9:53".parse().unwrap());
    assert_eq!(
        config.dns.domain.as_ref().unwrap().as_str(),
        "home.internal"
    );
    assert_eq!(config.underlay.advertise.len(), 1);
    assert_eq!(config.api.read.len(), 2);
    assert!(config.api.listen.is_some());
    assert_eq!(
        Config::parse(&toml::to_string(&config).unwrap()).unwrap(),
        config
    );
}

#[test]
fn an_error_shows_line_column_text_and_what_to_do() {
    let wrong = Config::parse("[dns]\n  domian = \"x\"\n").unwrap_err();
    assert_eq!(
        (wrong.line, wrong.column, wrong.text.as_str()),
        (2, 3, "  domian = \"x\"")
    );
    assert!(wrong.message.contains("domain"), "{wrong}");
    assert!(wrong.to_string().ends_with("\n  |   ^"), "{wrong}");
    let wrong = Config::parse("[underlay]\nlisten = \"here\"\n").unwrap_err();
    assert_eq!((wrong.line, wrong.column), (2, 10));
    let wrong = Config::parse("[dns]\nupstream = [\"9.9.9.9\", \"nine\"]").unwrap_err();
    assert!(
        wrong.message.contains("use an address or address:port"),
        "{wrong}"
    );
    let wrong = Config::parse("[[network]]\nname = \"a b\"\n").unwrap_err();
    assert_eq!(wrong.line, 2);
    let wrong = Config::parse("[limits]\nports = 4097\n").unwrap_err();
    assert_eq!((wrong.line, wrong.column), (2, 1));
    assert!(wrong.message.contains("must be 1 to 4096"), "{wrong}");
    let wrong =
        Config::parse("[[network]]\nname = \"a\"\n[[network]]\nname = \"A\"\n").unwrap_err();
    assert_eq!(wrong.line, 4);
    let wrong = Config::parse("[underlay]\nadvertise = [\"0.0.0.0:1\"]").unwrap_err();
    assert!(wrong.message.contains("nobody can reach"), "{wrong}");
    assert!(Config::parse(&" ".repeat(TEXT_MAX + 1)).is_err());
}

#[test]
fn a_network_that_cannot_be_is_refused_with_its_own_line() {
    let good = "[[network]]\nname = \"a\"\nvni = 7\nsubnets = [\"10.1.0.0/24\"]\nmtu = 1450\n";
    for (wrong, line, words) in [
        ("subnets = [\"10.0.0.1/24\"]", 7, "host bits"),
        ("mtu = 1", 7, "must be 576 to 9000"),
        ("subnets = [\"fd00::/64\"]\n  mtu = 600", 8, "1280"),
        ("vni = 7", 7, "networks a and b"),
    ] {
        let last = "[[network]]\nname = \"c\"\nsubnets = [\"10.3.0.0/24\"]\nmtu = 1450\n";
        let text = format!("{good}[[network]]\n{wrong}\nname = \"b\"\n{last}");
        let error = Config::parse(&text).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    assert!(Config::parse(good).is_ok());
}

#[test]
fn a_misspelt_level_is_refused_and_a_filter_is_not() {
    for wrong in ["wran", "", "info,", "meshd", "info,meshd=loud", "meshd="] {
        let error = Config::parse(&format!("[log]\nlevel = \"{wrong}\"\n")).unwrap_err();
        assert_eq!((error.line, error.column), (2, 1), "{error}");
        assert!(
            error.message.contains("is no level; use off, error"),
            "{error}"
        );
    }
    for good in [
        "warn",
        "TRACE",
        "info,meshd::underlay=debug, quinn=off",
        "off,meshd[span{a=1,b=2}]=trace",
    ] {
        assert!(Config::parse(&format!("[log]\nlevel = \"{good}\"\n")).is_ok());
    }
}

#[test]
fn a_change_of_endpoint_or_limits_needs_a_restart_and_one_of_the_log_level_does_not() {
    let new = Config::parse(
        "[underlay]\nlisten = \"0.0.0.0:1\"\n[limits]\nports = 5\n[log]\nlevel = \"debug\"\n",
    )
    .unwrap();
    let diff = ConfigDiff::between(&Config::default(), &new);
    assert_eq!(
        (diff.live.as_slice(), diff.restart.as_slice()),
        (&["log.level"][..], &["underlay.listen", "limits.ports"][..])
    );
    assert!(ConfigDiff::between(&new, &new).is_empty());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_on_printable_lines(text in ".{0,200}", cut in 0usize..2000) {
        for text in [text.clone(), EXAMPLE.chars().take(cut).collect::<String>() + &text] {
            if let Err(wrong) = Config::parse(&text) {
                prop_assert!(wrong.to_string().chars().all(|c| c == '\n' || !c.is_control()));
                prop_assert_eq!(wrong.to_string().lines().count(), 3);
                prop_assert!(wrong.line <= text.matches('\n').count() + 1);
            }
        }
    }

    #[test]
    fn a_broken_line_of_the_example_is_found(bytes in proptest::collection::vec((0usize..3000, any::<char>()), 1..5)) {
        let mut chars: Vec<char> = EXAMPLE.chars().collect();
        for (at, with) in bytes {
            if let Some(c) = chars.get_mut(at) {
                *c = with;
            }
        }
        let _ = Config::parse(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn a_demand_for_signatures_needs_somebody_who_is_trusted() {
    let error = Config::parse("[plugins]\nrequire_signature = true\n").unwrap_err();
    assert_eq!(
        (error.line, error.message.contains("nobody is trusted")),
        (2, true)
    );
    let key = "ab".repeat(32);
    let text = format!("[plugins]\ntrusted = [\"ed25519:{key}\"]\nrequire_signature = true\n");
    assert_eq!(Config::parse(&text).unwrap().plugins.trusted.len(), 1);
    let error = Config::parse("[plugins]\ntrusted = [\"me\"]\n").unwrap_err();
    assert!(error.message.contains("64 hex digits"), "{error:?}");
}

const DEVICES: &str = r#"
[[device.dummy]]
name = "svc0"
addresses = ["10.9.0.1/32", "fd09::1/128"]

[[device.bond]]
name = "bond0"
members = ["eth1", "eth2"]
mode = "802.3ad"
hash = "layer3+4"
lacp_rate = "fast"

[[device.vlan]]
name = "up.100"
parent = "bond0"
id = 100
addresses = ["192.0.2.1/24"]

[[device.bridge]]
name = "br0"
members = ["eth3", "eth4"]
vlan_filtering = true
access = { eth3 = 10 }
trunk = { eth4 = [10, 20] }
native = { eth4 = 5 }

[[device.macvlan]]
name = "web"
parent = "up.100"
netns = "web"
ifname = "eth0"
addresses = ["192.0.2.9/24"]

[[device.macvtap]]
name = "vm0"
parent = "br0"
reach = ["192.0.2.8"]
"#;

#[test]
fn devices_are_read_and_written_back() {
    let config = Config::parse(DEVICES).unwrap();
    assert_eq!(config.device.wishes().len(), 6);
    let written = toml::to_string(&config).unwrap();
    assert_eq!(Config::parse(&written).unwrap(), config);
}

#[test]
fn a_device_that_cannot_be_is_refused_with_its_own_line() {
    let lines = DEVICES.matches('\n').count();
    for (wrong, line, words) in [
        (
            "[[device.dummy]]\nname = \"bond0\"\n",
            2,
            "two devices bond0",
        ),
        ("[[device.dummy]]\nname = \"a/b\"\n", 2, "kernel refuses"),
        (
            "[[device.dummy]]\nname = \"x\"\naddresses = [\"10.0.0.1/24\", \"fe80::1/64\"]\n[[device.bridge]]\nname = \"y\"\naddresses = [\"fe80::1/64\", \"10.0.0.1/16\"]\n",
            6,
            "10.0.0.1/16 is an address of x already",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"lo\"\n",
            3,
            "lo is the loopback",
        ),
        (
            "[[device.bridge]]\nname = \"x\"\nmembers = [\"lo\"]\n",
            3,
            "lo is the loopback",
        ),
        (
            "[[device.vlan]]\nname = \"x\"\nparent = \"x\"\nid = 1\n",
            3,
            "on itself",
        ),
        (
            "[[device.vlan]]\nname = \"x\"\nparent = \"y\"\nid = 4095\n",
            4,
            "1 to 4094",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmembers = [\"eth1\"]\n",
            3,
            "member of bond0 too",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmembers = []\n",
            3,
            "at least one",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmembers = [\"eth5\"]\nlacp_rate = \"fast\"\n",
            4,
            "802.3ad",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmembers = [\"eth5\"]\narp_interval = 100\n",
            2,
            "name 1 to 16",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmembers = [\"eth5\"]\nup_delay = 150\n",
            4,
            "multiple",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmembers = [\"eth5\"]\nprimary = \"eth6\"\n",
            4,
            "no member",
        ),
        (
            "[[device.bridge]]\nname = \"x\"\nmembers = [\"svc0\"]\n",
            4,
            "give them to x",
        ),
        (
            "[[device.bridge]]\nname = \"x\"\nadopt = true\nstp = true\n",
            4,
            "whoever made it",
        ),
        (
            "[[device.bridge]]\nname = \"x\"\nadopt = true\nmembers = [\"eth9\"]\n",
            4,
            "told from its owner",
        ),
        (
            "[[device.bridge]]\nname = \"x\"\nmembers = [\"eth9\"]\naccess = { eth9 = 3 }\n",
            4,
            "vlan_filtering",
        ),
        (
            "[[device.dummy]]\nname = \"x\"\naddresses = [\"10.0.0.0/24\"]\n",
            3,
            "whole subnet",
        ),
        (
            "[[device.dummy]]\nname = \"x\"\nmtu = 1000\naddresses = [\"fd00::1/64\"]\n",
            3,
            "1280",
        ),
        (
            "[[device.bond]]\nname = \"x\"\nmode = \"802.3ad\"\nmembers = [\"eth5\"]\nmiimon = 0\n",
            5,
            "must look",
        ),
        (
            "[[device.dummy]]\nname = \"x\"\nid = 7\n",
            3,
            "unknown field",
        ),
        ("[[device.ipvlan]]\nname = \"x\"\n", 1, "unknown field"),
        (
            "[[device.dummy]]\nname = \"x\"\nservice = \"dns\"\n",
            3,
            "without an address",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"eth1\"\n",
            3,
            "name bond0 as the parent",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"web\"\n",
            3,
            "is a macvlan itself",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"br0\"\nmode = \"passthru\"\n",
            2,
            "for itself",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"eth9\"\nmode = \"source\"\n",
            4,
            "given MACs only",
        ),
        (
            "[[device.macvtap]]\nname = \"x\"\nparent = \"eth9\"\nmode = \"vepa\"\nreach = [\"10.0.0.1\"]\n",
            5,
            "does not reach",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"eth9\"\nnetns = \"pid:7\"\n",
            4,
            "outlives a process",
        ),
        (
            "[[device.macvlan]]\nname = \"x\"\nparent = \"eth9\"\nifname = \"eth0\"\n",
            4,
            "set `netns`",
        ),
    ] {
        let error = Config::parse(&format!("{DEVICES}{wrong}")).unwrap_err();
        assert!(error.message.contains(words), "{wrong}: {error}");
        if ![
            "give them to x",
            "name 1 to 16",
            "two devices bond0",
            "for itself",
        ]
        .contains(&words)
        {
            assert_eq!(error.line, lines + line, "{error}");
        }
    }
}

#[test]
fn devices_that_change_take_effect_at_once() {
    let new = Config::parse(DEVICES).unwrap();
    let diff = ConfigDiff::between(&Config::default(), &new);
    assert_eq!(
        (diff.live.as_slice(), diff.restart.len()),
        (&["device"][..], 0)
    );
}

#[test]
fn who_may_have_a_service_is_listed_once_and_by_names_of_members() {
    let listed = "[dns]\nservices = \"listed\"\n[[dns.service]]\nname = \"dns\"\nnodes = [\"berlin\", \"dbvbzi3w\"]\n";
    let rules = Config::parse(listed).unwrap().dns.rules();
    assert!(rules.only_listed);
    assert_eq!(
        rules.nodes.values().map(|nodes| nodes.len()).sum::<usize>(),
        2
    );
    for (text, line, words) in [
        (
            format!("{listed}[[dns.service]]\nname = \"dns\"\nnodes = []\n"),
            7,
            "there twice",
        ),
        (listed.replace("berlin", "ber lin"), 5, "is no member"),
        (listed.replace("berlin", ""), 5, "is no member"),
        (
            format!("{listed}[[dns.service]]\nname = \"a b\"\nnodes = []\n"),
            7,
            "",
        ),
    ] {
        let error = Config::parse(&text).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}
