//! SQL of this room.

pub(super) mod allowlist;
pub(super) mod drift;
pub(super) mod locks;
pub(super) mod queue;
pub(super) mod receipts;
pub(super) mod target;
pub(super) mod tracking;
