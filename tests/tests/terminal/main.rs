//! Consoles and terminals of workspaces in containers of a real daemon, over real
//! sockets.
//!
//! Without a Docker daemon these tests fail and say how to start one;
//! `MOLECULE_TEST_SKIP_DOCKER=1` leaves them out.

mod access;
mod console;
#[path = "../accounts/control_plane.rs"]
#[allow(dead_code, reason = "the tests of accounts need more of it")]
mod control_plane;
mod ends;
mod shell;
mod world;
