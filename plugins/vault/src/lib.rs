#![doc = include_str!("../README.md")]

mod api;
mod config;
mod file;
mod hook;
mod login;
mod session;
mod template;

molecule_hooks::register_hook! {
    name: "vault",
    description: "Puts secrets of HashiCorp Vault into every workspace",
    config: config::Config,
    build: hook::build,
    contract: include_str!("../contract.json"),
}
