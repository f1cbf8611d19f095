//! The contract kit must find what is broken, by the id it promises, and nothing
//! in a hook that is in order.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

mod calls;
mod good;
mod sections;
mod sources;
mod tokens;

use molecule_hooks::testing::{HookContract, Violation};

/// The ids a broken contract reports, in order.
async fn ids(contract: HookContract) -> Vec<&'static str> {
    violations(contract).await.iter().map(|v| v.id).collect()
}

async fn violations(contract: HookContract) -> Vec<Violation> {
    contract.check().await.err().unwrap_or_default()
}
