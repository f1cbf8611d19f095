//! Workspace plugins over real sockets.

mod allowlist;
mod download;
mod drift;
mod faults;
mod install;
mod installed;
mod journey;
mod receipts;
mod redelivery;
mod shelf;
mod sources;
mod staging;
mod updates;
