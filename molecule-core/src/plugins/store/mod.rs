//! SQL of plugins.

pub(super) mod allowlist;
pub(super) mod locks;
pub(super) mod receipts;
pub(super) mod target;
pub(super) mod tracking;
