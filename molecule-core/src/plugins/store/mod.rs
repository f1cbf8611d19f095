//! SQL of this room.

pub(super) mod drift;
pub(super) mod queue;
