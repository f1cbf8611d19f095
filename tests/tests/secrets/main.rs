//! Secrets: routes, encryption, rotation, restarts.

mod commands;
mod global;
mod leaks;
mod model;
mod others;
mod requests;
mod restarts;
mod rotation;
mod validation;
mod values;
mod workspace;
