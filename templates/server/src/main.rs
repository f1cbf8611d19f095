//! A Molecule server. Which hooks it has is decided here, when it is compiled.
//!
//! A hook crate takes two lines:
//!
//! 1. `Cargo.toml`, under `[dependencies]`: `molecule-hook-some = "1"`
//! 2. below: `use molecule_hook_some as _;`
//!
//! The second line is what links it. A dependency that no code names is left out of
//! the binary, so the attribute that follows makes the compiler ask for the line.
//! Its settings go into `molecule.yaml` under `hooks.config.some`; `cargo run --
//! hooks` lists what is linked, `cargo run -- config example` every setting there is.
#![cfg_attr(not(test), deny(unused_crate_dependencies))]

// Hooks of this server:
use molecule_hook_github_app_auth as _;

// What build.rs wrote down.
molecule_core::build_info!();

fn main() -> std::process::ExitCode {
    molecule_core::cli::main()
}
