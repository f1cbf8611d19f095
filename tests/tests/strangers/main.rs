//! Molecule as somebody meets it who has never seen this repository: a server and a
//! hook crate from the templates, in folders outside of it, built against the packages
//! that a publication would hold.
//!
//! Cargo does most of the work here. What it compiles stays in this workspace's target
//! directory, so that little of it is compiled twice. Nothing is downloaded: the lock
//! file of this workspace goes along.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod author;
mod dev_loop;
mod files;
mod misbehaving;
mod mistakes;
mod names;
mod operator;
mod program;
mod story;
