#![doc = include_str!("../README.md")]

mod api;
mod config;
mod hook;
mod tokens;

molecule_hooks::register_hook! {
    name: "gitlab-token",
    description: "Puts a short-lived GitLab access token into every workspace",
    config: config::Config,
    build: hook::build,
    token_provider: true,
    contract: include_str!("../contract.json"),
}
