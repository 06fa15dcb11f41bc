//! Packages of a policy and a controller: what is loaded, what it wants, and facts. Controllers at work are tested where their host
//! is, in the daemon.
#![allow(clippy::unwrap_used)]

mod guests;

use guests::{component, plugin, tcp_to};
use meshd_plugin_host::{
    CONTROLLER, Capability, Engine, FactChange, Facts, Instance, Limits, LoadError, Plugin, Say,
    World, precompile, section,
};

const FACTS: &str = r#"{"do":"facts"}"#;

fn change(key: &str, there: bool) -> FactChange {
    FactChange {
        key: key.to_owned(),
        value: there.then(Vec::new),
    }
}

fn facts(changes: &[FactChange]) -> Facts {
    Facts::default().with(changes).unwrap()
}

fn drops(instance: &mut Instance, port: u16) -> bool {
    matches!(
        instance.decide(&tcp_to(port)).unwrap().say,
        Say::Drop { .. }
    )
}

#[test]
fn a_package_says_which_capabilities_its_controller_imports_functions_of() {
    let both = plugin("fixture-controlled");
    assert!(both.has_policy() && both.has_controller());
    // Values of all nodes are of the same interface as those of one: only a manifest asks for them.
    let all = Capability::ALL.into_iter();
    let imported: Vec<Capability> = all.filter(|one| *one != Capability::KvMesh).collect();
    assert!(both.wants().eq(&imported));
    assert_eq!(both.shape().world, World::Policy);
    // Types of an interface are no function of it.
    let guard: Vec<Capability> = plugin("guard").wants().copied().collect();
    assert!(guard.contains(&Capability::Topology) && !guard.contains(&Capability::Http));
    assert!(!plugin("fixture").has_controller());
}

#[test]
fn both_halves_are_compiled_and_come_back_as_one() {
    let engine = Engine::new(Limits::default()).unwrap();
    let wasm = component("fixture-controlled");
    let code = precompile(&wasm).unwrap();
    // SAFETY: it comes from the compiler, and what is cut off is not run.
    #[allow(unsafe_code)]
    let (whole, cut) = unsafe {
        (
            Plugin::from_compiled(&engine, &wasm, &code),
            Plugin::from_compiled(&engine, &wasm, &code[..4]),
        )
    };
    let whole = whole.unwrap();
    assert!(whole.has_policy() && whole.has_controller());
    assert!(matches!(cut, Err(LoadError::Stale { .. })), "{cut:?}");
}

#[test]
fn a_controller_without_its_policy_is_none_unless_its_manifest_says_so() {
    let engine = Engine::new(Limits::default()).unwrap();
    let of = |name: &str| {
        let wasm = component(name);
        section(&wasm, CONTROLLER).unwrap().to_vec()
    };
    // The fixture's has no manifest, so it is taken for a policy, and is none.
    let error = Plugin::load(&engine, &of("fixture-controlled")).unwrap_err();
    assert!(
        matches!(error, LoadError::Import { .. } | LoadError::NoDecide { .. }),
        "{error}"
    );
    let alone = Plugin::load(&engine, &of("guard")).unwrap();
    assert!(!alone.has_policy() && alone.has_controller());
    assert_eq!(alone.shape().world, World::Controller);
    let mut idle = Instance::new(&alone, "{}", 1).unwrap();
    let decision = idle.decide(&tcp_to(666)).unwrap();
    assert_eq!(
        (decision.say, decision.mask),
        (Say::Next, Default::default())
    );
}

#[test]
fn a_verdict_is_a_function_of_config_facts_and_key_whichever_instance_is_asked() {
    let mut one = Instance::new(&plugin("fixture"), FACTS, 1).unwrap();
    assert!(!drops(&mut one, 666));
    let changes = [change("666", true), change("7", true)];
    let told = facts(&changes);
    one.update(&told, &changes, 2).unwrap();
    assert!(drops(&mut one, 666) && drops(&mut one, 7));
    let mut sibling = one.sibling();
    let mut fresh = Instance::with_facts(&plugin("fixture"), FACTS, told.clone(), 3).unwrap();
    let changes = [change("666", false)];
    let fewer = told.with(&changes).unwrap();
    one.update(&fewer, &changes, 4).unwrap();
    assert!(!drops(&mut one, 666) && drops(&mut one, 7));
    assert!(
        drops(&mut sibling, 666),
        "a sibling has the facts of its day"
    );
    assert!(drops(&mut fresh, 666));
    fresh.set_facts(Facts::default());
    assert!(!drops(&mut fresh, 7), "it starts anew, and is told nothing");
}

#[test]
fn facts_that_a_policy_fails_at_leave_it_with_the_old_ones() {
    let good = [change("666", true)];
    let mut guest = Instance::with_facts(&plugin("fixture"), FACTS, facts(&good), 1).unwrap();
    let bad = [change("1", true), change("trap", true)];
    let fault = guest.update(&guest.facts().with(&bad).unwrap(), &bad, 2);
    assert!(fault.is_err());
    assert!(drops(&mut guest, 666) && !drops(&mut guest, 1));
    assert_eq!(guest.facts().len(), 1);
}
