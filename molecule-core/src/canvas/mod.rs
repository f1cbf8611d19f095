//! What the web canvas keeps on the server: where people left it.

pub(crate) mod routes;

use molecule_hooks::Clock;

use crate::store::Db;

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Canvas {
    db: Db,
    clock: Clock,
}

impl Canvas {
    pub(crate) fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }
}
