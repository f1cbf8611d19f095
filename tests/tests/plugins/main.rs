//! Workspace plugins over real sockets.

mod agents;
mod allowlist;
mod checks;
mod download;
mod drift;
mod ground;
mod install;
mod installed;
mod journey;
mod on_docker;
mod receipts;
mod redelivery;
mod registry;
mod rounds;
mod scripted;
mod shelf;
mod sources;
mod staging;
mod turns;
mod uninstall;
mod updates;
#[path = "../terminal/world.rs"]
#[allow(dead_code, reason = "the tests of terminals need more of it")]
mod world;
