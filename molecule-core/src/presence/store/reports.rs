//! Writing reports: many rows per statement, because over a network the round
//! trips cost more than the rows.

use std::collections::HashMap;

use uuid::Uuid;

use super::super::live::Report;
use crate::store::{Db, Tx, from_row, statement, with_tx};

/// Values bound per report.
const COLUMNS: usize = 10;

/// Rows per statement: as many of the large ones as fit, then smaller ones. Sizes
/// are few, so that every statement is prepared once per connection.
const LARGE: usize = 64;
const SMALL: usize = 8;

statement!(WRITE_LARGE, const { &write(LARGE) }.as_str());
statement!(WRITE_SMALL, const { &write(SMALL) }.as_str());
statement!(WRITE_ONE, const { &write(1) }.as_str());

/// The statement that writes `rows` reports.
///
/// An empty SELECT from the table gives the rows below it their types: PostgreSQL
/// would take bare parameters for texts, and a cast has no name that both engines
/// know. The ids are named twice, because SQLite would otherwise look at every row of
/// the table and ask for each whether it is among these. Spend is only believed upwards of nothing; the time since when an agent
/// is idle survives as long as it is, and never lies in the future.
const fn write(rows: usize) -> Text {
    let mut text = Text::new().push(
        "UPDATE workspaces
         SET last_heartbeat_at = r.r_at, last_error_rate = r.r_rate, last_sample_error = r.r_error,
             active_tasks = r.r_active, uptime_seconds = r.r_uptime, current_task = r.r_task,
             monthly_spend = CASE WHEN r.r_spend > 0 THEN r.r_spend ELSE monthly_spend END,
             idle_since = CASE WHEN r.r_active > 0 THEN NULL
                               WHEN r.r_busy OR idle_since IS NULL OR idle_since > r.r_at THEN r.r_idle
                               ELSE idle_since END,
             updated_at = CASE WHEN status = 'hibernating' THEN updated_at ELSE r.r_at END
         FROM (SELECT id AS r_id, updated_at AS r_at, last_error_rate AS r_rate,
                      last_sample_error AS r_error, active_tasks AS r_active,
                      uptime_seconds AS r_uptime, current_task AS r_task, monthly_spend AS r_spend,
                      idle_since AS r_idle, external AS r_busy
               FROM workspaces WHERE FALSE",
    );
    let mut row = 0;
    while row < rows {
        text = text.push(" UNION ALL SELECT ");
        let mut column = 1;
        while column <= COLUMNS {
            text = text.push(if column > 1 { ", $" } else { "$" });
            text = text.number(row * COLUMNS + column);
            column += 1;
        }
        row += 1;
    }
    text = text.push(") AS r WHERE id IN (");
    row = 0;
    while row < rows {
        text = text.push(if row > 0 { ", $" } else { "$" });
        text = text.number(row * COLUMNS + 1);
        row += 1;
    }
    text.push(") AND id = r.r_id AND status <> 'removed' RETURNING id, status")
}

/// A text written at compile time.
struct Text {
    bytes: [u8; 8192],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self {
            bytes: [0; 8192],
            length: 0,
        }
    }

    const fn push(mut self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            self.bytes[self.length] = bytes[at];
            self.length += 1;
            at += 1;
        }
        self
    }

    const fn number(self, number: usize) -> Self {
        let mut text = match number {
            0..10 => self,
            _ => self.number(number / 10),
        };
        text.bytes[text.length] = b'0' + (number % 10) as u8;
        text.length += 1;
        text
    }

    const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => panic!("only whole texts are pushed"),
        }
    }
}

/// A row that was written, with its status as of then.
pub(in crate::presence) struct Written {
    pub(in crate::presence) id: Uuid,
    pub(in crate::presence) status: String,
}
from_row!(Written { id, status });

/// Writes the reports of `ids` in one transaction. Rows that are gone are left
/// out, silently.
pub(in crate::presence) async fn write_reports(
    db: &Db,
    ids: &[Uuid],
    reports: &HashMap<Uuid, Report>,
) -> sqlx::Result<Vec<Written>> {
    let rows: Vec<(Uuid, &Report)> = ids
        .iter()
        .filter_map(|id| Some((*id, reports.get(id)?)))
        .collect();
    let mut written = Vec::with_capacity(rows.len());
    let mut tx = db.begin().await?;
    let (large, rest) = rows.as_chunks::<LARGE>();
    let (small, rest) = rest.as_chunks::<SMALL>();
    for part in large {
        written.extend(write_some(&mut tx, WRITE_LARGE, part).await?);
    }
    for part in small {
        written.extend(write_some(&mut tx, WRITE_SMALL, part).await?);
    }
    for part in rest.chunks(1) {
        written.extend(write_some(&mut tx, WRITE_ONE, part).await?);
    }
    tx.commit().await?;
    Ok(written)
}

/// Runs a statement for exactly as many rows as it has places for.
async fn write_some(
    tx: &mut Tx,
    sql: &'static str,
    rows: &[(Uuid, &Report)],
) -> sqlx::Result<Vec<Written>> {
    with_tx!(tx, |conn| {
        let mut query = sqlx::query_as(sql);
        for (id, report) in rows {
            query = query
                .bind(*id)
                .bind(report.at)
                .bind(report.error_rate)
                .bind(&report.sample_error)
                .bind(report.active_tasks)
                .bind(report.uptime_seconds)
                .bind(&report.current_task)
                .bind(report.monthly_spend)
                .bind(report.idle_since)
                .bind(report.was_busy);
        }
        query.fetch_all(conn).await
    })
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::store::tests::sqlite;

    #[tokio::test]
    async fn sqlite_looks_rows_up_instead_of_reading_the_table() {
        let scratch = sqlite().await;
        crate::store::migrate(&scratch.db).await.unwrap();
        let Db::Sqlite(pool) = &scratch.db else {
            panic!("another engine");
        };
        for sql in [WRITE_LARGE, WRITE_SMALL, WRITE_ONE] {
            let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(sql).fetch_all(pool).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            let searches = "SEARCH workspaces USING INDEX sqlite_autoindex_workspaces_1 (id=?)";
            assert!(steps.iter().any(|step| step == searches), "{steps:?}");
            // One that finds nothing gives the rows their types.
            let scans = steps.iter().filter(|s| s.starts_with("SCAN workspaces"));
            assert_eq!(scans.count(), 1, "{steps:?}");
        }
        scratch.close().await;
    }
}
