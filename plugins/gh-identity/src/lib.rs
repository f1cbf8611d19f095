#![doc = include_str!("../README.md")]

mod config;
mod hook;
mod owners;
mod role;
mod wrapper;

molecule_hooks::register_hook! {
    name: "gh-identity",
    description: "Tells every agent who it is on GitHub and signs what it writes there",
    config: config::Config,
    build: hook::build,
    contract: include_str!("../contract.json"),
}
