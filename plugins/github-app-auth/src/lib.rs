#![doc = include_str!("../README.md")]

mod config;
mod exchange;
mod hook;
mod key;
mod refusal;

molecule_hooks::register_hook! {
    name: "github-app-auth",
    description: "Puts a live GitHub App installation token into every workspace",
    config: config::Config,
    build: hook::build,
    token_provider: true,
    contract: include_str!("../contract.json"),
}
