//! The echo agent, built together with the tests that start it as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    molecule_echo_agent::run_from_env(std::env::args().skip(1))
}
