//! Makes plugin projects, and components of them.
//!
//! ```text
//!   Project::make -> folder --Toolchain::build--> core module --component--> a .wasm for `meshd plugin install`
//!                                                     \- one of another language
//! ```
//!
//! What `meshd plugin new` and `meshd plugin build` do, and `cargo xtask plugins` for the repository's own guests, in the same
//! way. Owns the choice of toolchain, what a component looks like, and the template. Runs cargo and rustup; never runs a guest.

mod component;
mod program;
mod project;
mod template;
mod toolchain;
mod world;

pub use component::{CONTROLLER, MANIFEST, component, decides, module_manifest, package};
pub use project::{Built, Project};
pub use template::{Kind, Template, find_sdk};
pub use toolchain::{Lock, Missing, TARGET, Toolchain};
