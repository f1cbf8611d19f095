//! SQL of changes that people and agents make to a workspace.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Tx, from_row, statement, with_tx};

statement!(
    /// Writes the same value every time; the row's lock is what it is for.
    LOCK_HIERARCHY,
    "INSERT INTO platform_state (key, value) VALUES ('hierarchy_lock', '')
     ON CONFLICT (key) DO UPDATE SET value = excluded.value"
);

/// Waits until no other transaction moves workspaces, and keeps others waiting until
/// this one ends. Take it before any lock on a workspace.
pub(in super::super) async fn lock_hierarchy(tx: &mut Tx) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(LOCK_HIERARCHY)
        .execute(conn)
        .await
        .map(drop))
}

/// What a change is compared with.
pub(in super::super) struct Current {
    pub(in super::super) name: String,
    pub(in super::super) role: Option<String>,
    pub(in super::super) tier: i64,
    pub(in super::super) parent_id: Option<Uuid>,
    pub(in super::super) runtime: String,
    pub(in super::super) external: bool,
    pub(in super::super) workspace_dir: Option<String>,
}
from_row!(Current {
    name,
    role,
    tier,
    parent_id,
    runtime,
    external,
    workspace_dir
});

statement!(
    LOCK,
    "UPDATE workspaces SET updated_at = updated_at WHERE id = $1 AND status <> 'removed'
     RETURNING name, role, tier, parent_id, runtime, external, workspace_dir"
);

/// The row, locked until the transaction ends; none when it was removed.
pub(in super::super) async fn lock(tx: &mut Tx, id: Uuid) -> sqlx::Result<Option<Current>> {
    with_tx!(tx, |conn| sqlx::query_as(LOCK)
        .bind(id)
        .fetch_optional(conn)
        .await)
}

/// Where a workspace is on the canvas, and whether its team is folded away.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in super::super) struct Layout {
    pub(in super::super) x: f64,
    pub(in super::super) y: f64,
    pub(in super::super) collapsed: bool,
}
from_row!(Layout { x, y, collapsed });

statement!(
    LAYOUT,
    "SELECT x, y, collapsed FROM canvas_layouts WHERE workspace_id = $1"
);

pub(in super::super) async fn layout(tx: &mut Tx, id: Uuid) -> sqlx::Result<Layout> {
    let found: Option<Layout> = with_tx!(tx, |conn| sqlx::query_as(LAYOUT)
        .bind(id)
        .fetch_optional(conn)
        .await)?;
    Ok(found.unwrap_or_default())
}

statement!(
    /// UNION, not UNION ALL: a cycle of parents ends instead of running on.
    COUNT_ABOVE,
    "WITH RECURSIVE above (id) AS (
         SELECT parent_id FROM workspaces WHERE id = $1
         UNION
         SELECT w.parent_id FROM workspaces w JOIN above a ON w.id = a.id
     )
     SELECT count(*) FROM above WHERE id = $2"
);

/// True when `upper` is an ancestor of `lower`. Stays true until the transaction ends
/// if it holds [`lock_hierarchy`].
pub(in super::super) async fn is_above(
    tx: &mut Tx,
    upper: Uuid,
    lower: Uuid,
) -> sqlx::Result<bool> {
    let count: i64 = with_tx!(tx, |conn| sqlx::query_scalar(COUNT_ABOVE)
        .bind(lower)
        .bind(upper)
        .fetch_one(conn)
        .await)?;
    Ok(count > 0)
}

statement!(
    WRITE,
    "UPDATE workspaces SET name = $2, role = $3, tier = $4, parent_id = $5, runtime = $6,
            workspace_dir = $7, updated_at = $8
     WHERE id = $1"
);

/// Writes the row that [`lock`] gave, changed.
pub(in super::super) async fn write(
    tx: &mut Tx,
    id: Uuid,
    row: &Current,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(WRITE)
        .bind(id)
        .bind(&row.name)
        .bind(&row.role)
        .bind(row.tier)
        .bind(row.parent_id)
        .bind(&row.runtime)
        .bind(&row.workspace_dir)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    WRITE_LAYOUT,
    "INSERT INTO canvas_layouts (workspace_id, x, y, collapsed) VALUES ($1, $2, $3, $4)
     ON CONFLICT (workspace_id) DO UPDATE SET x = excluded.x, y = excluded.y, collapsed = excluded.collapsed"
);

pub(in super::super) async fn write_layout(
    tx: &mut Tx,
    id: Uuid,
    layout: Layout,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(WRITE_LAYOUT)
        .bind(id)
        .bind(layout.x)
        .bind(layout.y)
        .bind(layout.collapsed)
        .execute(conn)
        .await
        .map(drop))
}
