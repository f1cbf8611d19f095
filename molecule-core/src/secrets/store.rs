//! SQL of secrets.

pub(super) mod restart;
pub(super) mod rotation;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Sealed;
use super::model::{ListedRow, Scope, ScopedRow, SecretRow};
use crate::store::{Db, Tx, statement, with_db, with_tx};

statement!(
    /// Changes nothing and locks the row: writers of one workspace take turns.
    LOCK_WORKSPACE,
    "UPDATE workspaces SET updated_at = updated_at WHERE id = $1 AND status <> 'removed' RETURNING id"
);
statement!(
    /// Changes nothing. Writers of global secrets take turns: each of them updates
    /// many workspaces, in whatever order the database likes.
    LOCK_GLOBAL,
    "UPDATE platform_state SET value = value WHERE key = 'instance_id'"
);

/// Keeps others from writing secrets of this scope until the transaction ends.
/// False when there is no such workspace.
pub(super) async fn lock(tx: &mut Tx, scope: Scope) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| match scope {
        Scope::Global => {
            sqlx::query(LOCK_GLOBAL).execute(conn).await?;
            Ok(true)
        }
        Scope::Workspace(id) => {
            let found: Option<Uuid> = sqlx::query_scalar(LOCK_WORKSPACE)
                .bind(id)
                .fetch_optional(conn)
                .await?;
            Ok(found.is_some())
        }
    })
}

statement!(
    FIND,
    "SELECT key, encrypted_value, encryption_version FROM workspace_secrets WHERE workspace_id = $1 AND key = $2"
);
statement!(
    FIND_GLOBAL,
    "SELECT key, encrypted_value, encryption_version FROM global_secrets WHERE key = $1"
);

pub(super) async fn find(tx: &mut Tx, scope: Scope, key: &str) -> sqlx::Result<Option<SecretRow>> {
    with_tx!(tx, |conn| match scope {
        Scope::Global => sqlx::query_as(FIND_GLOBAL).bind(key),
        Scope::Workspace(id) => sqlx::query_as(FIND).bind(id).bind(key),
    }
    .fetch_optional(conn)
    .await)
}

/// As [`find`], without a transaction.
pub(super) async fn read(db: &Db, workspace: Uuid, key: &str) -> sqlx::Result<Option<SecretRow>> {
    with_db!(db, |pool| sqlx::query_as(FIND)
        .bind(workspace)
        .bind(key)
        .fetch_optional(pool)
        .await)
}

statement!(
    COUNT,
    "SELECT count(*) FROM workspace_secrets WHERE workspace_id = $1"
);
statement!(COUNT_GLOBAL, "SELECT count(*) FROM global_secrets");

/// How many secrets a scope has.
pub(super) async fn count(tx: &mut Tx, scope: Scope) -> sqlx::Result<i64> {
    with_tx!(tx, |conn| match scope {
        Scope::Global => sqlx::query_scalar(COUNT_GLOBAL),
        Scope::Workspace(id) => sqlx::query_scalar(COUNT).bind(id),
    }
    .fetch_one(conn)
    .await)
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
statement!(
    UPSERT_GLOBAL,
    "INSERT INTO global_secrets (id, key, encrypted_value, encryption_version, created_at, updated_at)
     VALUES ($1, $2, $3, $4, $5, $5)
     ON CONFLICT (key) DO UPDATE
     SET encrypted_value = excluded.encrypted_value,
         encryption_version = excluded.encryption_version,
         updated_at = excluded.updated_at"
);

pub(super) async fn upsert(
    tx: &mut Tx,
    scope: Scope,
    key: &str,
    sealed: &Sealed,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| match scope {
        Scope::Global => sqlx::query(UPSERT_GLOBAL).bind(Uuid::new_v4()),
        Scope::Workspace(id) => sqlx::query(UPSERT).bind(Uuid::new_v4()).bind(id),
    }
    .bind(key)
    .bind(&sealed.bytes)
    .bind(sealed.version)
    .bind(now)
    .execute(conn)
    .await
    .map(drop))
}

statement!(
    DELETE,
    "DELETE FROM workspace_secrets WHERE workspace_id = $1 AND key = $2"
);
statement!(DELETE_GLOBAL, "DELETE FROM global_secrets WHERE key = $1");

/// True when there was one.
pub(super) async fn delete(tx: &mut Tx, scope: Scope, key: &str) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| match scope {
        Scope::Global => sqlx::query(DELETE_GLOBAL),
        Scope::Workspace(id) => sqlx::query(DELETE).bind(id),
    }
    .bind(key)
    .execute(conn)
    .await
    .map(|done| done.rows_affected() > 0))
}

statement!(
    SET_MODEL,
    "UPDATE workspaces SET model = $2 WHERE id = $1 AND COALESCE(model, '') <> COALESCE($2, '')"
);

/// Sets the model in the workspace's row, which wins over the secret. True when
/// it was another one.
pub(super) async fn set_model(tx: &mut Tx, id: Uuid, model: Option<&str>) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(SET_MODEL)
        .bind(id)
        .bind(model)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() > 0))
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

statement!(
    LIST,
    "SELECT key, created_at, updated_at FROM workspace_secrets WHERE workspace_id = $1"
);
statement!(
    LIST_GLOBAL,
    "SELECT key, created_at, updated_at FROM global_secrets"
);

/// The secrets of a scope by key, in the order of its bytes, whatever the
/// database's language.
pub(super) async fn list(db: &Db, scope: Scope) -> sqlx::Result<Vec<ListedRow>> {
    let mut rows: Vec<ListedRow> = with_db!(db, |pool| match scope {
        Scope::Global => sqlx::query_as(LIST_GLOBAL),
        Scope::Workspace(id) => sqlx::query_as(LIST).bind(id),
    }
    .fetch_all(pool)
    .await)?;
    rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(rows)
}
