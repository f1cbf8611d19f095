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
mod retention;
mod rounds;
mod tokens;
