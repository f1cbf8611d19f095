#![doc = include_str!("../README.md")]

mod config;
mod exchange;
mod hook;

molecule_hooks::register_hook! {
    name: "oauth2",
    description: "Serves live access tokens by OAuth 2.0 client credentials",
    config: config::Config,
    build: hook::build,
    token_provider: true,
    contract: include_str!("../contract.json"),
}
