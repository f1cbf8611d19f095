//! The echo agent binary; everything lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    molecule_echo_agent::run_from_env(std::env::args().skip(1))
}
