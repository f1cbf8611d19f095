//! The examples as their readers run them: the real binaries, from outside.
//!
//! Those that need a Docker daemon fail without one. To leave them out on purpose
//! set `MOLECULE_TEST_SKIP_DOCKER=1`.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod custom_server;
mod github;
mod quickstart;
mod support;
