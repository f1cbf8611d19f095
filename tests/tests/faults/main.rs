//! Bad input and faults: what must not happen when hooks misbehave, the database
//! goes away, the server is killed, the operator mistypes.

mod commands;
mod config;
mod connections;
mod crash;
mod crash_docker;
#[allow(dead_code, reason = "the contract of the backends needs more of it")]
mod daemon_proxy;
mod database;
mod docker_events;
mod docker_ground;
mod docker_neighbours;
mod docker_restart;
mod docker_trouble;
mod docker_world;
mod fleet_docker;
mod hooks;
mod plants;
mod plugins;
mod private_docker;
mod process;
mod provisioning;
mod secrets;
mod shutdown;
mod start_up;
mod takeover;
