//! SQL of secrets.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Sealed;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A stored secret without its scope.
#[derive(Clone)]
pub(super) struct SecretRow {
    pub(super) key: String,
    pub(super) encrypted_value: Vec<u8>,
    pub(super) encryption_version: i64,
}
from_row!(SecretRow {
    key,
    encrypted_value,
    encryption_version
});

/// A stored secret of any workspace.
pub(super) struct ScopedRow {
    pub(super) workspace_id: Uuid,
    pub(super) key: String,
    encrypted_value: Vec<u8>,
    encryption_version: i64,
}
from_row!(ScopedRow {
    workspace_id,
    key,
    encrypted_value,
    encryption_version
});

impl ScopedRow {
    pub(super) fn secret(&self) -> SecretRow {
        SecretRow {
            key: self.key.clone(),
            encrypted_value: self.encrypted_value.clone(),
            encryption_version: self.encryption_version,
        }
    }
}

statement!(
    UPSERT,
    "INSERT INTO workspace_secrets (id, workspace_id, key, encrypted_value, encryption_version, created_at, updated_at)
     VALUES ($1, $2, $3, $4, $5, $6, $6)
     ON CONFLICT (workspace_id, key) DO UPDATE
     SET encrypted_value = excluded.encrypted_value,
         encryption_version = excluded.encryption_version,
         updated_at = excluded.updated_at"
);

pub(super) async fn upsert(
    tx: &mut Tx,
    workspace: Uuid,
    key: &str,
    sealed: &Sealed,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(UPSERT)
        .bind(Uuid::new_v4())
        .bind(workspace)
        .bind(key)
        .bind(&sealed.bytes)
        .bind(sealed.version)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    GLOBAL,
    "SELECT key, encrypted_value, encryption_version FROM global_secrets ORDER BY key"
);

pub(super) async fn global(db: &Db) -> sqlx::Result<Vec<SecretRow>> {
    with_db!(db, |pool| sqlx::query_as(GLOBAL).fetch_all(pool).await)
}

statement!(
    OF_WORKSPACE,
    "SELECT key, encrypted_value, encryption_version FROM workspace_secrets WHERE workspace_id = $1 ORDER BY key"
);

pub(super) async fn of_workspace(db: &Db, workspace: Uuid) -> sqlx::Result<Vec<SecretRow>> {
    with_db!(db, |pool| sqlx::query_as(OF_WORKSPACE)
        .bind(workspace)
        .fetch_all(pool)
        .await)
}

statement!(
    ALL_OF_WORKSPACES,
    "SELECT s.workspace_id, s.key, s.encrypted_value, s.encryption_version
     FROM workspace_secrets s JOIN workspaces w ON w.id = s.workspace_id
     WHERE w.status <> 'removed'"
);

pub(super) async fn all_of_workspaces(db: &Db) -> sqlx::Result<Vec<ScopedRow>> {
    with_db!(db, |pool| sqlx::query_as(ALL_OF_WORKSPACES)
        .fetch_all(pool)
        .await)
}
