//! Real hook crates with tokens and secrets in one server, end to end.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

#[allow(dead_code, reason = "the tests of faults need more of it")]
#[path = "../faults/process.rs"]
mod process;
mod secrecy;
mod served;
