//! Workspace plugins over real sockets.

mod allowlist;
mod checks;
mod download;
mod drift;
mod faults;
mod ground;
mod install;
mod installed;
mod journey;
mod receipts;
mod redelivery;
mod registry;
mod scripted;
mod shelf;
mod sources;
mod staging;
mod turns;
mod uninstall;
mod updates;
