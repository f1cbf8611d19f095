//! The environment of the next boot, explained.

mod bounds;
mod compared;
mod failing;
mod payload;
mod secrecy;
mod shared;
mod writers;
