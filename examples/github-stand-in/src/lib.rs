#![doc = include_str!("../README.md")]

mod behaviour;
mod jwt;
mod keys;
mod server;

pub use behaviour::Behaviour;
pub use jwt::Claims;
pub use keys::{KeyError, KeyPairPem, generate_key_pair};
pub use server::{GithubStandIn, Options, RecordedRequest, StartError};
