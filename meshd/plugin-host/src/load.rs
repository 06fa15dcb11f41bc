//! Component bytes in, a plugin that keeps the contract out.
//!
//! ```text
//!   size -> component? -> compile -> machine code -> manifest reads? -> imports none? -> exports decide? -> types right? -> Plugin
//!   \--------- precompile ---------/             \------------------------ Plugin::from_compiled -------------------------/
//!
//!   file = policy component [+ custom section meshd:controller = controller component]        or a controller component alone
//! ```
//!
//! The halves can run in two processes: a compiler that a stranger's component eats its way into takes nothing with it.
//! Refuses everything that is not exactly a component of the world `policy`, `policy-tracked`, `steering` or `controller`, and says
//! what it is instead.

use crate::bindings::PolicyPre;
use crate::bindings::controller::ControllerPre;
use crate::bindings::steering::SteeringPre;
use crate::bindings::tracked::PolicyTrackedPre;
use crate::bindings::tracked::meshd::policy::tracked_key;
use crate::capability::{Asks, Capability};
use crate::controller::{self, Desk};
use crate::engine::{Engine, controller_settings, settings};
use crate::instance::Guest;
use crate::instance::has_its_types;
use crate::manifest::{Manifest, ManifestError};
use crate::sections::{CONTROLLER, section};
use crate::version::{self, Named, Terms, WIT};
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;
use meshd_core::ident::escape;
use meshd_core::signer::Signer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

/// The largest component that is taken, in bytes. JavaScript and Python guests bring an interpreter of 11 to 18 MB.
pub const MAX_COMPONENT: usize = 32 << 20;
/// What a guest of the world `policy` exports.
const DECIDE: &str = "decide";
/// What one of `policy-tracked` exports.
const DECIDE_TRACKED: &str = "decide-tracked";
/// What one of `controller` exports.
const EVENTS: &str = "events";
/// What one of `steering` exports.
const STEER: &str = "steer";
/// The import that is allowed to all: it holds types and no function.
const TYPES: &str = "types";
/// The import of `policy-tracked`: the key of the frame in question.
const TRACKED_KEY: &str = "tracked-key";

/// Name of a component: SHA-256 of its bytes, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut out = [0; 32];
        out.iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(out)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no SHA-256 digest (64 hex digits)")]
pub struct ParseDigestError {
    text: String,
}

impl FromStr for Digest {
    type Err = ParseDigestError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseDigestError {
            text: text.chars().take(80).collect(),
        };
        let mut out = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (i, byte) in out.iter_mut().enumerate() {
            let pair = text.get(2 * i..2 * i + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(out))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Why bytes are no plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// wasmtime does not start.
    #[error("the WASM engine does not start on this machine: {reason}")]
    Engine {
        /// As wasmtime says.
        reason: String,
    },
    /// Larger than [`MAX_COMPONENT`].
    #[error(
        "the component has {size} bytes; at most {MAX_COMPONENT} are taken. Build in release mode and strip it"
    )]
    TooLarge {
        /// In bytes.
        size: usize,
    },
    /// Not WASM.
    #[error(
        "this is not WebAssembly (it starts with {start}). Give the .wasm component that `cargo xtask plugins` or `wasm-tools component new` wrote"
    )]
    NotWasm {
        /// The first bytes, in hex.
        start: String,
    },
    /// WASM, but without the component layer.
    #[error(
        "this is a core module, not a component. Make a component of it: `wasm-tools component new module.wasm -o component.wasm`"
    )]
    CoreModule,
    /// Invalid, or it needs what is off here.
    #[error("the component does not compile: {reason}")]
    Compile {
        /// As the compiler says.
        reason: String,
    },
    /// Compiled, but not by this release for this machine.
    #[error("the compiled component is not of this release and machine: {reason}")]
    Stale {
        /// As the engine says.
        reason: String,
    },
    /// It says of itself what does not read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A policy gets no imports.
    #[error("the component imports {import}, and a policy gets no imports. {hint}")]
    Import {
        /// Its name.
        import: String,
        /// Where such an import comes from, and what to do.
        hint: &'static str,
    },
    /// Another world.
    #[error(
        "the component does not export meshd:policy/decide; it exports {found}. Build it for the world `policy`, `policy-tracked` or `steering` of package meshd:policy@0.1.0"
    )]
    NoDecide {
        /// What it exports.
        found: String,
    },
    /// A controller that wants what the contract does not have.
    #[error("the controller imports {import}, which is none of the world `controller`. {hint}")]
    ControllerImport {
        /// Its name.
        import: String,
        /// Where such an import comes from, and what to do.
        hint: &'static str,
    },
    /// The section has something else.
    #[error(
        "what the component carries as its controller (section {CONTROLLER}) does not export meshd:policy/events. Build it with the meshd-sdk of this release"
    )]
    NoEvents,
    /// The contract, but another version of it.
    #[error(
        "the component is made for meshd:policy@{version}, and this daemon speaks {WIT} and what is compatible with it. {hint}"
    )]
    Version {
        /// As the component says.
        version: String,
        /// Which of the two is the older, and what to do.
        hint: &'static str,
    },
    /// The contract in a version that this daemon can serve, and something of it that this daemon does not have.
    #[error(
        "the component needs {needs}, and this daemon speaks {WIT}, which has no such thing. Upgrade meshd, or build it without that"
    )]
    Newer {
        /// The interface, with its version.
        needs: String,
    },
    /// The right names, other types.
    #[error(
        "the component's meshd:policy/{interface} differs from this daemon's: {reason}. Build it with the meshd-sdk of this release"
    )]
    Contract {
        /// Which interface.
        interface: &'static str,
        /// As the linker says.
        reason: String,
    },
}

/// A compiled component that keeps the contract; makes instances. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) engine: Engine,
    /// `None`: a controller alone.
    pub(crate) pre: Option<Pre>,
    pub(crate) controller: Option<Arc<ControllerCode>>,
    digest: Digest,
    shape: Arc<Shape>,
    signers: Arc<[Signer]>,
    manifest: Option<Arc<Manifest>>,
}

/// Linked, and checked against the types of its world.
#[derive(Clone)]
pub(crate) enum Pre {
    Policy(PolicyPre<Guest>),
    Tracked(PolicyTrackedPre<Guest>),
    Steering(SteeringPre<Guest>),
}

/// The controller of a package, linked.
pub(crate) struct ControllerCode {
    pub(crate) pre: ControllerPre<Desk>,
    /// Interfaces of which it imports functions.
    wants: BTreeSet<Capability>,
    pub(crate) manifest: Option<Arc<Manifest>>,
}

/// What a component is made for; `wit/worlds.wit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// The key as a record; what the answer rests on is what the guest says.
    Policy,
    /// The key by questions; what the answer rests on is what was asked.
    PolicyTracked,
    /// No policy at all: events, and what it writes.
    Controller,
    /// No policy: it chooses among the ways to a member.
    Steering,
}

impl World {
    /// As in `wit/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::PolicyTracked => "policy-tracked",
            Self::Controller => "controller",
            Self::Steering => "steering",
        }
    }

    fn export(self) -> &'static str {
        match self {
            Self::Policy => DECIDE,
            Self::PolicyTracked => DECIDE_TRACKED,
            Self::Controller => EVENTS,
            Self::Steering => STEER,
        }
    }
}

/// The names at a component's outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is made for.
    pub world: World,
    /// Types of the contract, the key by questions, and nothing else.
    pub imports: Vec<String>,
    /// At least the contract's.
    pub exports: Vec<String>,
}

/// Is this of a size and kind that is worth a compiler?
///
/// # Errors
/// What it is instead of a component, and what to do about it.
pub fn precheck(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > MAX_COMPONENT {
        return Err(LoadError::TooLarge { size: bytes.len() });
    }
    match bytes {
        // Magic, then version 1 and layer 0: a core module (component-model Binary.md).
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => {
            let start: String = bytes
                .iter()
                .take(4)
                .map(|byte| format!("{byte:02x} "))
                .collect();
            let start = if start.is_empty() {
                "nothing".to_owned()
            } else {
                start.trim_end().to_owned()
            };
            Err(LoadError::NotWasm { start })
        }
    }
}

/// The components in a file.
struct Parts<'a> {
    policy: Option<&'a [u8]>,
    controller: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, LoadError> {
        precheck(bytes)?;
        if let Some(inner) = section(bytes, CONTROLLER) {
            precheck(inner)?;
            return Ok(Self {
                policy: Some(bytes),
                controller: Some(inner),
            });
        }
        // One that damages its manifest is refused later, in the manifest's words.
        let alone =
            matches!(Manifest::of(bytes), Ok(Some(said)) if said.world == World::Controller.name());
        Ok(Self {
            policy: (!alone).then_some(bytes),
            controller: alone.then_some(bytes),
        })
    }
}

/// Bytes that say how long the first part of machine code is.
const LENGTH: usize = 8;

/// Makes machine code of a component, for [`Plugin::from_compiled`] of the same release on the same machine. One thread; how
/// long it takes and how much memory is up to the component, so call it in a process that has limits.
///
/// ```text
///   length of the policy's code (8 bytes, little-endian), that code, the controller's code
/// ```
///
/// # Errors
/// What the bytes are instead of a component, or as the compiler says.
pub fn precompile(bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let Parts { policy, controller } = Parts::of(bytes)?;
    let compile = |mut config: wasmtime::Config, bytes: Option<&[u8]>| {
        let Some(bytes) = bytes else {
            return Ok(Vec::new());
        };
        config.parallel_compilation(false);
        wasmtime::Engine::new(&config)
            .map_err(|e| LoadError::Engine {
                reason: one_line(&e),
            })?
            .precompile_component(bytes)
            .map_err(|e| LoadError::Compile {
                reason: one_line(&e),
            })
    };
    let policy = compile(settings(), policy)?;
    let controller = compile(controller_settings(), controller)?;
    let length = (policy.len() as u64).to_le_bytes();
    Ok([&length[..], &policy, &controller].concat())
}

/// The two parts of what [`precompile`] made.
fn code(compiled: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = compiled.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// Names everything that compiled code depends on beside the component: this release's engine, its settings, the processor.
/// 16 hex digits.
#[must_use]
pub fn compatibility(engine: &Engine) -> String {
    struct Sha(ring::digest::Context);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finish();
            digest
                .as_ref()
                .iter()
                .take(8)
                .fold(0, |all, byte| all << 8 | u64::from(*byte))
        }
    }
    let mut sha = Sha(ring::digest::Context::new(&ring::digest::SHA256));
    engine.wasm().precompile_compatibility_hash().hash(&mut sha);
    let controllers = engine.controllers().precompile_compatibility_hash();
    controllers.hash(&mut sha);
    format!("{:016x}", sha.finish())
}

impl Plugin {
    /// Compiles and checks a component, all in this process: for tools and tests. The daemon has [`precompile`] done by a
    /// child process, since what a compiler takes of time and memory is the component's choice.
    ///
    /// # Errors
    /// What the bytes are instead of a policy component, and what to do about it.
    pub fn load(engine: &Engine, bytes: &[u8]) -> Result<Self, LoadError> {
        let parts = Parts::of(bytes)?;
        let compile = |engine: &wasmtime::Engine, bytes: &[u8]| {
            Component::from_binary(engine, bytes).map_err(|e| LoadError::Compile {
                reason: one_line(&e),
            })
        };
        let policy = parts.policy.map(|bytes| compile(engine.wasm(), bytes));
        let controller = parts
            .controller
            .map(|bytes| compile(engine.controllers(), bytes));
        Self::of(engine, bytes, policy.transpose()?, controller.transpose()?)
    }

    /// Checks a component that [`precompile`] has compiled of `wasm`.
    ///
    /// # Errors
    /// [`LoadError::Stale`] where another release or machine compiled it; else why it is no policy component.
    ///
    /// # Safety
    /// `compiled` is run as machine code: it must be what [`precompile`] returned, every byte. Who did not just get it from
    /// there must have proof of that.
    #[allow(unsafe_code)]
    pub unsafe fn from_compiled(
        engine: &Engine,
        wasm: &[u8],
        compiled: &[u8],
    ) -> Result<Self, LoadError> {
        let (policy, controller) = code(compiled).ok_or_else(|| LoadError::Stale {
            reason: "it is cut off".to_owned(),
        })?;
        let read = |engine: &wasmtime::Engine, code: &[u8]| {
            if code.is_empty() {
                return Ok(None);
            }
            // SAFETY: as the caller promises.
            let component = unsafe { Component::deserialize(engine, code) };
            component.map(Some).map_err(|e| LoadError::Stale {
                reason: one_line(&e),
            })
        };
        let policy = read(engine.wasm(), policy)?;
        let controller = read(engine.controllers(), controller)?;
        Self::of(engine, wasm, policy, controller)
    }

    fn of(
        engine: &Engine,
        wasm: &[u8],
        policy: Option<Component>,
        controller: Option<Component>,
    ) -> Result<Self, LoadError> {
        // Before the linker: a plugin of another contract says so in its own words.
        let manifest = Manifest::of(wasm)?.map(Arc::new);
        let mut shape = policy
            .as_ref()
            .map(|component| check(engine, component))
            .transpose()?;
        let pre = match (&policy, &shape) {
            (Some(component), Some(shape)) => Some(link(engine, component, shape.world)?),
            _ => None,
        };
        let controller = match controller {
            Some(component) => {
                let (its, mut wants) = check_controller(engine, &component)?;
                let its_manifest = match section(wasm, CONTROLLER) {
                    Some(inner) => Manifest::of(inner)?.map(Arc::new),
                    None => manifest.clone(),
                };
                shape.get_or_insert(its);
                // The same interface as `kv`, so that its imports do not tell; its manifest does.
                let mesh = Capability::KvMesh;
                let asks = |manifest: &Arc<Manifest>| manifest.asks.capabilities.contains(&mesh);
                if wants.contains(&Capability::Kv) && its_manifest.as_ref().is_some_and(asks) {
                    wants.insert(mesh);
                }
                Some(Arc::new(ControllerCode {
                    pre: controller::link(engine, &component)?,
                    wants,
                    manifest: its_manifest,
                }))
            }
            None => None,
        };
        let shape = shape.ok_or_else(|| LoadError::NoDecide {
            found: "nothing".to_owned(),
        })?;
        Ok(Self {
            engine: engine.clone(),
            pre,
            controller,
            digest: Digest::of(wasm),
            shape: Arc::new(shape),
            signers: Arc::default(),
            manifest,
        })
    }

    /// Is there a policy in it?
    #[must_use]
    pub fn has_policy(&self) -> bool {
        self.pre.is_some()
    }

    /// Is there a controller in it?
    #[must_use]
    pub fn has_controller(&self) -> bool {
        self.controller.is_some()
    }

    /// The interfaces that its controller imports functions of, and values of all nodes if its manifest asks for those; each has to
    /// be granted.
    pub fn wants(&self) -> impl Iterator<Item = &Capability> {
        self.controller.iter().flat_map(|code| &code.wants)
    }

    /// What its controller's manifest asks for.
    #[must_use]
    pub fn asks(&self) -> Asks {
        let said = self
            .controller
            .as_ref()
            .and_then(|code| code.manifest.as_deref());
        said.map_or_else(Asks::default, |manifest| manifest.asks.clone())
    }

    /// What it imports and exports.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The same, with what [`signers`](crate::signers) says of its component.
    #[must_use]
    pub fn signed_by(self, signers: Vec<Signer>) -> Self {
        Self {
            signers: signers.into(),
            ..self
        }
    }

    /// Who has signed it, as far as who loaded it looked.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// What it needs of the contract, and how this host serves it.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms::of(&self.shape)
    }

    /// What each of its instances may use up.
    #[must_use]
    pub fn limits(&self) -> crate::Limits {
        self.engine.limits()
    }

    /// What it says of itself, if it does.
    #[must_use]
    pub fn manifest(&self) -> Option<&Arc<Manifest>> {
        self.manifest.as_ref()
    }

    /// SHA-256 of the component's bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

fn link(engine: &Engine, component: &Component, world: World) -> Result<Pre, LoadError> {
    let pre = linked(engine, component, world)?;
    has_its_types(engine, &pre).map_err(|e| differs(world.export(), &e))?;
    Ok(pre)
}

fn linked(engine: &Engine, component: &Component, world: World) -> Result<Pre, LoadError> {
    let mut linker = Linker::new(engine.wasm());
    let contract = |e: wasmtime::Error| differs(world.export(), &e);
    match world {
        World::PolicyTracked => {
            tracked_key::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)
                .map_err(contract)?;
            let pre = linker.instantiate_pre(component).map_err(contract)?;
            PolicyTrackedPre::new(pre)
                .map(Pre::Tracked)
                .map_err(contract)
        }
        World::Steering => {
            let pre = linker.instantiate_pre(component).map_err(contract)?;
            SteeringPre::new(pre).map(Pre::Steering).map_err(contract)
        }
        World::Policy | World::Controller => {
            let pre = linker.instantiate_pre(component).map_err(contract)?;
            PolicyPre::new(pre).map(Pre::Policy).map_err(contract)
        }
    }
}

pub(crate) fn differs(interface: &'static str, error: &wasmtime::Error) -> LoadError {
    LoadError::Contract {
        interface,
        reason: one_line(error),
    }
}

/// What a controller imports and exports, and the capabilities that it needs: interfaces of which it imports functions. Types
/// grant nothing.
fn check_controller(
    engine: &Engine,
    component: &Component,
) -> Result<(Shape, BTreeSet<Capability>), LoadError> {
    let shape = component.component_type();
    let engine = engine.controllers();
    let exports: Vec<String> = shape
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let imports = shape.imports(engine).map(|(name, _)| name);
    version::check(exports.iter().map(String::as_str).chain(imports))?;
    let mut events = exports.iter().filter_map(|name| Named::read(name));
    if !events.any(|name| name.interface == EVENTS) {
        return Err(LoadError::NoEvents);
    }
    let (mut imports, mut wants) = (Vec::new(), BTreeSet::new());
    for (name, item) in shape.imports(engine) {
        let interface = Named::read(name).map(|ours| ours.interface);
        if !is_types_only(&item.ty, engine) {
            let capability = interface.and_then(|interface| interface.parse().ok());
            wants.insert(capability.ok_or_else(|| LoadError::ControllerImport {
                import: name.to_owned(),
                hint: match name.starts_with("meshd:policy/") {
                    true => "Build it with the meshd-sdk of this release",
                    false => hint(name),
                },
            })?);
        }
        imports.push(name.to_owned());
    }
    let shape = Shape {
        world: World::Controller,
        imports,
        exports,
    };
    Ok((shape, wants))
}

fn is_types_only(item: &ComponentItem, engine: &wasmtime::Engine) -> bool {
    matches!(item, ComponentItem::ComponentInstance(instance)
        if instance.exports(engine).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_))))
}

fn check(engine: &Engine, component: &Component) -> Result<Shape, LoadError> {
    let shape = component.component_type();
    let exports: Vec<&str> = shape.exports(engine.wasm()).map(|(name, _)| name).collect();
    let imports = shape.imports(engine.wasm()).map(|(name, _)| name);
    version::check(exports.iter().copied().chain(imports))?;
    let mut world = None;
    for name in exports.iter().filter_map(|name| Named::read(name)) {
        let found = [World::Policy, World::PolicyTracked, World::Steering]
            .into_iter()
            .find(|world| world.export() == name.interface);
        world = world.or(found);
    }
    let mut imports = Vec::new();
    for (name, item) in shape.imports(engine.wasm()) {
        let ours = Named::read(name);
        let is = |interface: &str| {
            ours.as_ref()
                .is_some_and(|ours| ours.interface == interface)
        };
        let types_only = is(TYPES) && is_types_only(&item.ty, engine.wasm());
        let key = is(TRACKED_KEY) && world == Some(World::PolicyTracked);
        if !types_only && !key {
            return Err(LoadError::Import {
                import: short(&escape(name.as_bytes())),
                hint: hint(name),
            });
        }
        imports.push(name.to_owned());
    }
    if let Some(world) = world {
        return Ok(Shape {
            world,
            imports,
            exports: exports.into_iter().map(str::to_owned).collect(),
        });
    }
    let found = if exports.is_empty() {
        "nothing".to_owned()
    } else {
        short(&escape(exports.join(", ").as_bytes()))
    };
    Err(LoadError::NoDecide { found })
}

fn hint(import: &str) -> &'static str {
    if import.starts_with("wasi:") {
        "WASI comes in with std's files, clock, environment or printing: build for wasm32-unknown-unknown, and look for println!, std::time and std::fs"
    } else if import.starts_with("meshd:policy/") {
        "That is a capability of the controller world; a policy decides from config and key alone"
    } else {
        "Leave out what needs it"
    }
}

/// An error with its causes on one line, bounded: a component chooses the names in it.
fn one_line(error: &wasmtime::Error) -> String {
    short(&format!("{error:#}").replace(['\n', '\r'], " "))
}

/// A stranger's words: no longer than a person reads.
fn short(text: &str) -> String {
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
