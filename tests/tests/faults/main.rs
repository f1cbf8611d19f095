//! Bad input and faults: what must not happen when hooks misbehave, the database
//! goes away, the server is killed, the operator mistypes.

mod commands;
mod config;
mod connections;
mod crash;
mod crash_docker;
mod database;
mod docker_world;
mod fleet_docker;
mod hooks;
mod plants;
mod process;
mod provisioning;
mod proxy;
mod secrets;
mod shutdown;
mod takeover;
