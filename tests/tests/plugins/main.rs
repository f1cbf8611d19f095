//! Workspace plugins over real sockets.

mod allowlist;
mod checks;
mod download;
mod drift;
mod faults;
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
