//! The HTTP interface, with real requests over a socket, against the contract.

mod auth;
mod bodies;
mod bootstrap;
mod coverage;
mod creation;
mod credentials;
mod deletion;
mod external;
mod heartbeat;
mod openapi;
mod providers;
mod provisioning;
mod reading;
mod registry;
mod selfhosted;
use molecule_tests::support;
mod system;
mod wire;
