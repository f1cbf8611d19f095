//! What runs by itself.

mod doctor;
mod doctor_docker;
mod health;
mod hibernation;
mod leader;
mod liveness;
#[path = "../faults/proxy.rs"]
mod proxy;
mod retention;
mod rounds;
mod tokens;
