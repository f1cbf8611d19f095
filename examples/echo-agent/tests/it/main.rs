//! The real binary against a stand-in platform over real sockets.

mod a2a;
mod agent;
mod git_credential;
mod stand_in;
