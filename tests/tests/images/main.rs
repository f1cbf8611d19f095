//! Images on a real daemon: chosen, pulled from a real registry, kept fresh.
//!
//! Without a Docker daemon these tests fail and say how to start one;
//! `MOLECULE_TEST_SKIP_DOCKER=1` leaves them out. The registry is the program
//! `docker-registry` (the Debian package of that name).

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot do its part fails the test"
)]

#[allow(
    dead_code,
    unused_imports,
    reason = "what the suite of the backends shares is more than these tests need"
)]
#[path = "../backend_support/mod.rs"]
mod backend_support;
mod boots;
mod credentials;
mod decline;
mod faults;
mod fleet;
mod local_build;
mod pins;
mod progress;
mod registry;
mod rollout;
mod served;
mod support;
mod world;
