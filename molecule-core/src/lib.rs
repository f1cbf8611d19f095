#![doc = include_str!("../README.md")]

mod a2a;
mod app;
mod auth;
pub mod backend;
mod build_info;
mod canvas;
mod cidr;
pub mod cli;
pub mod config;
mod error;
mod events;
mod git;
mod hooks;
mod http;
mod identity;
mod images;
mod outbound;
mod plugins;
mod presence;
mod provlog;
mod redact;
mod rollout;
mod run;
mod secrets;
mod server;
mod store;
mod supervisor;
mod sweeps;
mod telemetry;
mod terminal;
pub mod tree;
mod workspaces;

pub use config::Config;
pub use events::{Event, EventType};
/// The hook SDK this server was built with.
pub use molecule_hooks;
pub use molecule_hooks::Registry;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use plugins::fuzzing;
pub use plugins::{GitSource, LocalSource};
pub use run::run;
pub use secrets::{EncryptionKey, KeyError};
pub use server::{Server, ServerBuilder, StartError};
pub use sweeps::Cadence;

#[doc(hidden)]
pub mod __private {
    pub use crate::build_info::EmbeddedManifest;
    pub use inventory;
}
