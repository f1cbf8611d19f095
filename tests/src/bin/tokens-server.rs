//! A deployment for tests: the whole command line of a server with the hook crates whose
//! sections hold secrets in lists and mappings.

use std::process::ExitCode;

use molecule_hook_env_file as _;
use molecule_hook_gitlab_token as _;
use molecule_hook_oauth2 as _;
use molecule_hook_vault as _;

fn main() -> ExitCode {
    molecule_core::cli::main()
}
