//! A Molecule server compiled with two hook crates.
//!
//! To make your own: copy this folder, change the two lines below and the same
//! two in `Cargo.toml`, build. A dependency that is not named here does not
//! compile (see the lint), because a dependency alone links nothing.
#![cfg_attr(not(test), deny(unused_crate_dependencies))]

// Hooks in this build:
use molecule_hook_gh_identity as _;
use molecule_hook_github_app_auth as _;

// What this binary is made of, as build.rs wrote it down: `custom-server build-info`.
molecule_core::build_info!();

fn main() -> std::process::ExitCode {
    molecule_core::cli::main()
}
