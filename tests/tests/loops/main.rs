//! What runs by itself.

mod changes;
mod doctor;
mod doctor_docker;
mod fake_daemon;
mod health;
mod hibernation;
mod large;
mod leader;
mod liveness;
mod orphans;
#[path = "../faults/proxy.rs"]
mod proxy;
mod retention;
mod rounds;
mod tokens;
