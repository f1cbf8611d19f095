//! SQL of key rotation: the same three statements for each table.

use uuid::Uuid;

use crate::secrets::Sealed;
use crate::store::{Db, from_row, statement, with_db};

/// Where encrypted values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Secrets of single workspaces.
    Workspaces,
    /// Secrets of all of them.
    Global,
    /// With what a workspace knows the server.
    Inbound,
}

impl Table {
    pub(crate) const ALL: [Self; 3] = [Self::Workspaces, Self::Global, Self::Inbound];

    /// Table, or table and column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Workspaces => "workspace_secrets",
            Self::Global => "global_secrets",
            Self::Inbound => "workspaces.inbound_secret",
        }
    }
}

/// A stored value. The owner of a global secret is the row itself.
pub(in super::super) struct StoredRow {
    pub(in super::super) id: Uuid,
    pub(in super::super) owner: Uuid,
    pub(in super::super) key: String,
    bytes: Vec<u8>,
    version: i64,
}
from_row!(StoredRow {
    id,
    owner,
    key,
    bytes,
    version
});

impl StoredRow {
    pub(in super::super) fn sealed(&self) -> Sealed {
        Sealed {
            bytes: self.bytes.clone(),
            version: self.version,
        }
    }
}

// A value of version 2 begins with its key's id.
statement!(
    OLD_OF_WORKSPACES,
    "SELECT id, workspace_id AS owner, key, encrypted_value AS bytes, encryption_version AS version
     FROM workspace_secrets
     WHERE id > $1 AND (encryption_version <> 2 OR substr(encrypted_value, 1, 9) <> $2)
     ORDER BY id LIMIT $3"
);
statement!(
    OLD_GLOBAL,
    "SELECT id, id AS owner, key, encrypted_value AS bytes, encryption_version AS version
     FROM global_secrets
     WHERE id > $1 AND (encryption_version <> 2 OR substr(encrypted_value, 1, 9) <> $2)
     ORDER BY id LIMIT $3"
);
statement!(
    OLD_INBOUND,
    "SELECT id, id AS owner, 'inbound_secret' AS key, inbound_secret AS bytes,
            inbound_secret_version AS version
     FROM workspaces
     WHERE id > $1 AND inbound_secret IS NOT NULL
       AND (inbound_secret_version <> 2 OR substr(inbound_secret, 1, 9) <> $2)
     ORDER BY id LIMIT $3"
);

/// The next rows after `after` whose value does not begin with `head`.
pub(in super::super) async fn old_rows(
    db: &Db,
    table: Table,
    after: Uuid,
    head: &[u8],
    limit: i64,
) -> sqlx::Result<Vec<StoredRow>> {
    let sql = match table {
        Table::Workspaces => OLD_OF_WORKSPACES,
        Table::Global => OLD_GLOBAL,
        Table::Inbound => OLD_INBOUND,
    };
    with_db!(db, |pool| sqlx::query_as(sql)
        .bind(after)
        .bind(head)
        .bind(limit)
        .fetch_all(pool)
        .await)
}

statement!(
    SWAP_OF_WORKSPACE,
    "UPDATE workspace_secrets SET encrypted_value = $4, encryption_version = $5
     WHERE id = $1 AND encrypted_value = $2 AND encryption_version = $3"
);
statement!(
    SWAP_GLOBAL,
    "UPDATE global_secrets SET encrypted_value = $4, encryption_version = $5
     WHERE id = $1 AND encrypted_value = $2 AND encryption_version = $3"
);
statement!(
    SWAP_INBOUND,
    "UPDATE workspaces SET inbound_secret = $4, inbound_secret_version = $5
     WHERE id = $1 AND inbound_secret = $2 AND inbound_secret_version = $3"
);

/// Replaces the stored bytes, not the value. False when somebody wrote meanwhile.
///
/// One row per transaction: no lock is waited for with another one in hand.
pub(in super::super) async fn swap(
    db: &Db,
    table: Table,
    row: &StoredRow,
    sealed: &Sealed,
) -> sqlx::Result<bool> {
    let sql = match table {
        Table::Workspaces => SWAP_OF_WORKSPACE,
        Table::Global => SWAP_GLOBAL,
        Table::Inbound => SWAP_INBOUND,
    };
    with_db!(db, |pool| sqlx::query(sql)
        .bind(row.id)
        .bind(&row.bytes)
        .bind(row.version)
        .bind(&sealed.bytes)
        .bind(sealed.version)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() > 0))
}

/// How many values are stored in one way. `head` is there for version 2 only.
pub(in super::super) struct TallyRow {
    pub(in super::super) version: i64,
    pub(in super::super) head: Option<Vec<u8>>,
    pub(in super::super) amount: i64,
}
from_row!(TallyRow {
    version,
    head,
    amount
});

statement!(
    TALLY_OF_WORKSPACES,
    "SELECT encryption_version AS version,
            CASE WHEN encryption_version = 2 THEN substr(encrypted_value, 1, 9) END AS head,
            count(*) AS amount
     FROM workspace_secrets GROUP BY 1, 2"
);
statement!(
    TALLY_GLOBAL,
    "SELECT encryption_version AS version,
            CASE WHEN encryption_version = 2 THEN substr(encrypted_value, 1, 9) END AS head,
            count(*) AS amount
     FROM global_secrets GROUP BY 1, 2"
);
statement!(
    TALLY_INBOUND,
    "SELECT inbound_secret_version AS version,
            CASE WHEN inbound_secret_version = 2 THEN substr(inbound_secret, 1, 9) END AS head,
            count(*) AS amount
     FROM workspaces WHERE inbound_secret IS NOT NULL GROUP BY 1, 2"
);

/// How the values of a table are stored.
pub(in super::super) async fn tally(db: &Db, table: Table) -> sqlx::Result<Vec<TallyRow>> {
    let sql = match table {
        Table::Workspaces => TALLY_OF_WORKSPACES,
        Table::Global => TALLY_GLOBAL,
        Table::Inbound => TALLY_INBOUND,
    };
    with_db!(db, |pool| sqlx::query_as(sql).fetch_all(pool).await)
}
