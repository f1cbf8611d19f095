//! SQL of WebSocket tickets.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::auth::token::TokenHash;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

statement!(
    INSERT,
    "INSERT INTO websocket_tickets (ticket_hash, workspace_id, expires_at, issued_to)
     VALUES ($1, $2, $3, $4)"
);

pub(in crate::auth) async fn insert(
    tx: &mut Tx,
    hash: &TokenHash,
    ticket: &TicketRow,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(INSERT)
        .bind(hash.as_bytes())
        .bind(ticket.workspace_id)
        .bind(ticket.expires_at)
        .bind(&ticket.issued_to)
        .execute(conn)
        .await
        .map(drop))
}

/// A ticket that is not used yet, or was just used.
pub(in crate::auth) struct TicketRow {
    pub(in crate::auth) workspace_id: Option<Uuid>,
    pub(in crate::auth) expires_at: DateTime<Utc>,
    pub(in crate::auth) issued_to: Option<String>,
}
from_row!(TicketRow {
    workspace_id,
    expires_at,
    issued_to
});

statement!(
    /// Of several who come at once, on whatever server, one gets the row.
    TAKE,
    "DELETE FROM websocket_tickets WHERE ticket_hash = $1 RETURNING workspace_id, expires_at, issued_to"
);

pub(in crate::auth) async fn take(db: &Db, hash: &TokenHash) -> sqlx::Result<Option<TicketRow>> {
    // All of them, so that the statement runs to its end.
    let rows: Vec<TicketRow> = with_db!(db, |pool| sqlx::query_as(TAKE)
        .bind(hash.as_bytes())
        .fetch_all(pool)
        .await)?;
    Ok(rows.into_iter().next())
}

statement!(
    SWEEP,
    "DELETE FROM websocket_tickets WHERE expires_at <= $1"
);

/// Deletes what nobody used in time.
pub(in crate::auth) async fn sweep(db: &Db, now: DateTime<Utc>) -> sqlx::Result<u64> {
    with_db!(db, |pool| sqlx::query(SWEEP)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected()))
}
