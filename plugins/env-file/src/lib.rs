#![doc = include_str!("../README.md")]

mod config;
mod hook;
mod layers;
mod open;
mod parse;
mod sops;

molecule_hooks::register_hook! {
    name: "env-file",
    description: "Sets variables from files for everybody, for a role and for a workspace",
    config: config::Config,
    build: hook::build,
    contract: include_str!("../contract.json"),
}
