//! What the rows say about many workspaces that somebody else knows.

use std::collections::HashMap;

use uuid::Uuid;

use crate::store::{Db, from_row, statement, with_db};

/// Ids per statement.
const CHUNK: usize = 32;

/// As far as a sweep has to know it.
#[derive(Debug)]
pub(in crate::sweeps) struct Standing {
    id: Uuid,
    status: String,
    pub(in crate::sweeps) external: bool,
    /// A provision is under way, or its server died.
    leased: bool,
}
from_row!(Standing {
    id,
    status,
    external,
    leased
});

impl Standing {
    /// The name itself: a status of a newer server is something else.
    pub(in crate::sweeps) fn is_removed(&self) -> bool {
        self.status == "removed"
    }

    /// It failed, and nobody starts it.
    pub(in crate::sweeps) fn has_failed(&self) -> bool {
        self.status == "failed" && !self.leased
    }

    /// Its compute should not run.
    pub(in crate::sweeps) fn is_asleep(&self) -> bool {
        matches!(self.status.as_str(), "paused" | "hibernated")
    }
}

statement!(
    STANDING,
    "SELECT id, status, external, provision_lease_until IS NOT NULL AS leased FROM workspaces WHERE id IN (
       $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
       $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)"
);

/// The rows of `ids`, as far as there are any.
pub(in crate::sweeps) async fn standing(
    db: &Db,
    ids: &[Uuid],
) -> sqlx::Result<HashMap<Uuid, Standing>> {
    let mut found = HashMap::new();
    for chunk in ids.chunks(CHUNK) {
        // A short one is filled up with ids that are asked about anyway.
        let asked = chunk.iter().cycle().take(CHUNK);
        let rows: Vec<Standing> = with_db!(db, |pool| {
            let mut query = sqlx::query_as(STANDING);
            for id in asked {
                query = query.bind(*id);
            }
            query.fetch_all(pool).await
        })?;
        found.extend(rows.into_iter().map(|row| (row.id, row)));
    }
    Ok(found)
}
