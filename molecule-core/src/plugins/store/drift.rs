//! SQL of tracked plugins: the look for newer revisions, what a start delivers, and
//! what they follow.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// Rows that one statement marks.
pub(in crate::plugins) const MARKED_AT_ONCE: usize = 50;

/// A tracked plugin that may have drifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugins) struct Followed {
    pub(in crate::plugins) id: Uuid,
    pub(in crate::plugins) workspace_id: Uuid,
    pub(in crate::plugins) plugin_name: String,
    pub(in crate::plugins) source_raw: String,
    pub(in crate::plugins) tracked_ref: String,
    pub(in crate::plugins) installed_sha: String,
    /// The revision that nobody wants.
    pub(in crate::plugins) dismissed_sha: Option<String>,
    /// The revision that is queued because of what the row says now.
    pub(in crate::plugins) pending_sha: Option<String>,
    /// When somebody looked last; long ago for what nobody looked at yet.
    pub(in crate::plugins) last_look: DateTime<Utc>,
    /// How many looks failed since one succeeded.
    pub(in crate::plugins) check_failures: i32,
}
from_row!(Followed {
    id,
    workspace_id,
    plugin_name,
    source_raw,
    tracked_ref,
    installed_sha,
    dismissed_sha,
    pending_sha,
    last_look,
    check_failures
});

statement!(
    /// `$1` stands for the time of rows that were never looked at.
    FOLLOWED,
    "SELECT p.id, p.workspace_id, p.plugin_name, p.source_raw, p.tracked_ref, p.installed_sha,
            p.dismissed_sha,
            CASE WHEN q.tracked_ref = p.tracked_ref AND q.current_sha = p.installed_sha
                 THEN q.latest_sha END AS pending_sha,
            COALESCE(p.checked_at, $1) AS last_look,
            p.check_failures
     FROM workspace_plugins p
     JOIN workspaces w ON w.id = p.workspace_id AND w.status <> 'removed'
     LEFT JOIN plugin_update_queue q ON q.workspace_id = p.workspace_id
          AND q.plugin_name = p.plugin_name AND q.status = 'pending'
     WHERE p.tracked_ref <> 'none' AND p.tracked_ref NOT LIKE 'sha:%' AND p.installed_sha IS NOT NULL
       AND p.update_mode <> 'off'
       AND (COALESCE(p.checked_at, $1) > $2 OR (COALESCE(p.checked_at, $1) = $2 AND p.id > $3))
     ORDER BY COALESCE(p.checked_at, $1), p.id LIMIT $4"
);

/// Where a page of followed plugins begins.
#[derive(Debug, Clone, Copy)]
pub(in crate::plugins) struct After {
    pub(in crate::plugins) last_look: DateTime<Utc>,
    pub(in crate::plugins) id: Uuid,
}

impl After {
    /// Before every row.
    pub(in crate::plugins) fn nothing() -> Self {
        Self {
            last_look: DateTime::UNIX_EPOCH,
            id: Uuid::nil(),
        }
    }

    pub(in crate::plugins) fn row(row: &Followed) -> Self {
        Self {
            last_look: row.last_look,
            id: row.id,
        }
    }
}

/// Plugins that follow something that can move, least recently looked at first.
pub(in crate::plugins) async fn followed(
    db: &Db,
    after: After,
    most: i64,
) -> sqlx::Result<Vec<Followed>> {
    with_db!(db, |pool| sqlx::query_as(FOLLOWED)
        .bind(DateTime::<Utc>::UNIX_EPOCH)
        .bind(after.last_look)
        .bind(after.id)
        .bind(most)
        .fetch_all(pool)
        .await)
}

macro_rules! fifty {
    ($set:literal, $rest:literal) => {
        concat!(
            "UPDATE workspace_plugins SET ",
            $set,
            " WHERE id IN ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                 $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36,
                 $37, $38, $39, $40, $41, $42, $43, $44, $45, $46, $47, $48, $49, $50, $51)",
            $rest
        )
    };
}

statement!(LOOKED, fifty!("checked_at = $1, check_failures = 0", ""));
statement!(
    LOOKED_IN_VAIN,
    fifty!(
        "checked_at = $1, check_failures = CASE WHEN check_failures < 1000 THEN check_failures + 1 ELSE 1000 END",
        ""
    )
);

/// Writes down that somebody looked at these rows now.
pub(in crate::plugins) async fn looked(
    db: &Db,
    rows: &[Uuid],
    succeeded: bool,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let sql = if succeeded { LOOKED } else { LOOKED_IN_VAIN };
    for part in rows.chunks(MARKED_AT_ONCE) {
        with_db!(db, |pool| {
            let mut query = sqlx::query(sql).bind(now);
            // The last one fills the places that are left.
            for place in 0..MARKED_AT_ONCE {
                query = query.bind(part.get(place).or(part.last()).copied());
            }
            query.execute(pool).await.map(drop)
        })?;
    }
    Ok(())
}

statement!(
    FORGET_DISMISSED,
    "UPDATE workspace_plugins SET dismissed_sha = NULL WHERE id = $1 AND dismissed_sha = $2"
);

/// The upstream moved away from what somebody dismissed.
pub(in crate::plugins) async fn forget_dismissed(
    db: &Db,
    id: Uuid,
    dismissed: &str,
) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(FORGET_DISMISSED)
        .bind(id)
        .bind(dismissed)
        .execute(pool)
        .await
        .map(drop))
}

/// A plugin of a workspace as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugins) struct Desired {
    pub(in crate::plugins) id: Uuid,
    pub(in crate::plugins) plugin_name: String,
    pub(in crate::plugins) source_raw: String,
    pub(in crate::plugins) tracked_ref: String,
    pub(in crate::plugins) update_mode: String,
    pub(in crate::plugins) installed_sha: Option<String>,
    /// Digest of what was delivered.
    pub(in crate::plugins) tree_sha256: Option<String>,
    /// Signature of that digest, if one came with the request for it.
    pub(in crate::plugins) signature: Option<String>,
    pub(in crate::plugins) installed_at: DateTime<Utc>,
    pub(in crate::plugins) updated_at: DateTime<Utc>,
}
from_row!(Desired {
    id,
    plugin_name,
    source_raw,
    tracked_ref,
    update_mode,
    installed_sha,
    tree_sha256,
    signature,
    installed_at,
    updated_at
});

macro_rules! desired {
    ($rest:literal) => {
        concat!(
            "SELECT id, plugin_name, source_raw, tracked_ref, update_mode, installed_sha, tree_sha256,
                    signature, installed_at, updated_at
             FROM workspace_plugins WHERE workspace_id = $1 ",
            $rest
        )
    };
}

statement!(DESIRED, desired!("ORDER BY plugin_name LIMIT 1000"));

/// What a workspace should have, by name.
pub(in crate::plugins) async fn desired(db: &Db, workspace: Uuid) -> sqlx::Result<Vec<Desired>> {
    with_db!(db, |pool| sqlx::query_as(DESIRED)
        .bind(workspace)
        .fetch_all(pool)
        .await)
}

statement!(DESIRED_ONE, desired!("AND plugin_name = $2"));

/// One plugin that a workspace should have.
pub(in crate::plugins) async fn desired_one(
    db: &Db,
    workspace: Uuid,
    plugin: &str,
) -> sqlx::Result<Option<Desired>> {
    with_db!(db, |pool| sqlx::query_as(DESIRED_ONE)
        .bind(workspace)
        .bind(plugin)
        .fetch_optional(pool)
        .await)
}

statement!(
    SET_TRACK,
    "UPDATE workspace_plugins
     SET tracked_ref = $3, update_mode = $4, updated_at = $5, dismissed_sha = NULL,
         checked_at = NULL, check_failures = 0
     WHERE workspace_id = $1 AND plugin_name = $2"
);

/// Lets a plugin follow something else. False when there is no such row.
pub(in crate::plugins) async fn set_track(
    tx: &mut Tx,
    workspace: Uuid,
    plugin: &str,
    (track, mode): (&str, &str),
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(SET_TRACK)
        .bind(workspace)
        .bind(plugin)
        .bind(track)
        .bind(mode)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    SET_MODE,
    "UPDATE workspace_plugins SET update_mode = $3, updated_at = $4
     WHERE workspace_id = $1 AND plugin_name = $2"
);

/// Lets something else happen when the upstream moves. False when there is no such row.
pub(in crate::plugins) async fn set_mode(
    tx: &mut Tx,
    workspace: Uuid,
    plugin: &str,
    mode: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(SET_MODE)
        .bind(workspace)
        .bind(plugin)
        .bind(mode)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

/// What a start did for a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::plugins) struct Supplied {
    /// Row of the plugin.
    pub(in crate::plugins) id: Uuid,
    /// The instance that has it now.
    pub(in crate::plugins) instance_id: Option<String>,
    /// Digest of what was delivered, if something was.
    pub(in crate::plugins) tree_sha256: Option<String>,
    /// The class of what went wrong.
    pub(in crate::plugins) error: Option<&'static str>,
}

statement!(
    /// A row that was written meanwhile says something newer.
    SUPPLIED,
    "UPDATE workspace_plugins
     SET delivered_to = CASE WHEN $4 = '' AND delivered_to IS NULL THEN NULL
                             ELSE COALESCE($3, delivered_to) END,
         delivered_at = CASE WHEN $4 = '' THEN delivered_at ELSE $6 END,
         tree_sha256 = CASE WHEN $4 = '' THEN tree_sha256 ELSE $4 END,
         signature = CASE WHEN $4 = '' OR $4 = tree_sha256 THEN signature ELSE NULL END,
         delivery_error = $5
     WHERE id = $1 AND updated_at = $2"
);

/// Writes down what a start did for the plugins of a workspace.
pub(in crate::plugins) async fn supplied(
    db: &Db,
    all: &[(Supplied, DateTime<Utc>)],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    for (supplied, as_of) in all {
        with_tx!(&mut tx, |conn| sqlx::query(SUPPLIED)
            .bind(supplied.id)
            .bind(*as_of)
            .bind(&supplied.instance_id)
            .bind(supplied.tree_sha256.as_deref().unwrap_or_default())
            .bind(supplied.error)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
    }
    tx.commit().await
}

statement!(
    UNDELIVERED,
    "SELECT p.plugin_name, p.workspace_id, p.delivery_error
     FROM workspace_plugins p JOIN workspaces w ON w.id = p.workspace_id AND w.status <> 'removed'
     WHERE p.delivery_error IS NOT NULL ORDER BY p.workspace_id, p.plugin_name LIMIT $1"
);

/// A plugin that its workspace did not get when it started last.
#[derive(Debug)]
pub(in crate::plugins) struct Undelivered {
    pub(in crate::plugins) plugin_name: String,
    pub(in crate::plugins) workspace_id: Uuid,
    pub(in crate::plugins) delivery_error: String,
}
from_row!(Undelivered {
    plugin_name,
    workspace_id,
    delivery_error
});

pub(in crate::plugins) async fn undelivered(db: &Db, most: i64) -> sqlx::Result<Vec<Undelivered>> {
    with_db!(db, |pool| sqlx::query_as(UNDELIVERED)
        .bind(most)
        .fetch_all(pool)
        .await)
}

statement!(
    OF_LOCAL,
    "SELECT count(*) FROM workspace_plugins WHERE source_raw LIKE 'local://%'"
);

/// How many plugins come from the folder of this server.
pub(in crate::plugins) async fn of_local(db: &Db) -> sqlx::Result<i64> {
    with_db!(db, |pool| sqlx::query_scalar(OF_LOCAL)
        .fetch_one(pool)
        .await)
}

statement!(
    OF_GIT,
    "SELECT count(*) FROM workspace_plugins WHERE source_raw LIKE 'github://%'"
);

/// How many plugins come from git.
pub(in crate::plugins) async fn of_git(db: &Db) -> sqlx::Result<i64> {
    with_db!(db, |pool| sqlx::query_scalar(OF_GIT).fetch_one(pool).await)
}

statement!(
    UNSEEN,
    "SELECT count(*) FROM workspace_plugins p
     JOIN workspaces w ON w.id = p.workspace_id AND w.status <> 'removed'
     WHERE p.tracked_ref <> 'none' AND p.tracked_ref NOT LIKE 'sha:%' AND p.installed_sha IS NOT NULL
       AND p.update_mode <> 'off' AND COALESCE(p.checked_at, p.installed_at) < $1"
);

/// How many plugins follow something that nobody looked at since; none where nobody is
/// to look.
pub(in crate::plugins) async fn unseen_since(
    db: &Db,
    before: Option<DateTime<Utc>>,
) -> sqlx::Result<i64> {
    let Some(before) = before else {
        return Ok(0);
    };
    with_db!(db, |pool| sqlx::query_scalar(UNSEEN)
        .bind(before)
        .fetch_one(pool)
        .await)
}
