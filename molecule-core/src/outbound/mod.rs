//! Calls that leave this server: which URLs may be called or handed out, and a
//! client that reaches nothing but the address that was looked at.
//!
//! A host name is looked up once. The client connects to the addresses of that
//! answer, follows no redirect and uses no proxy, so that neither a name that
//! answers differently the second time nor a clever upstream leads elsewhere.

mod address;
mod client;
mod guard;
mod resolve;

pub(crate) use client::{CallError, Limits, read_body};
pub(crate) use guard::{Guard, Policy, Refusal, VettedUrl};
