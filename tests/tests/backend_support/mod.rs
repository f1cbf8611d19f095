//! What the contract suite of the backends needs: fixtures, a small agent, and a
//! proxy in front of the daemon that breaks on command.

pub(crate) mod agent;
pub(crate) mod docker;
pub(crate) mod fixture;
pub(crate) mod plugin_world;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod registry;
pub(crate) mod suite;
