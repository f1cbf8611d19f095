//! What runs by itself.

mod changes;
mod doctor;
mod doctor_docker;
mod health;
mod hibernation;
mod leader;
mod liveness;
mod orphans;
#[path = "../faults/proxy.rs"]
mod proxy;
mod retention;
mod rounds;
mod tokens;
