//! History that is old enough to go.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::store::{self, History};
use super::{Services, Sweeps};
use crate::store::timestamp;

/// Rows of one statement, so that none holds others up.
const BATCH: i64 = 1000;
/// Between two statements.
const PAUSE: Duration = Duration::from_millis(50);
/// The first round waits up to this long, so that it does not meet the start of
/// everything else.
const JITTER_MS: u128 = 3000;
/// Revoked tokens are kept this long, for whoever asks what happened.
const REVOKED_TOKENS_DAYS: i64 = 30;

impl Sweeps {
    /// One round: deletes what is older than the configuration keeps.
    pub(super) async fn sweep_history(&self) {
        let jitter = Uuid::new_v4().as_u128() % JITTER_MS;
        tokio::time::sleep(Duration::from_millis(jitter as u64)).await;
        let retention = &self.services.config.retention;
        for (history, days) in [
            (History::Activity, i64::from(retention.activity_days)),
            (History::Events, i64::from(retention.events_days)),
            (History::RevokedTokens, REVOKED_TOKENS_DAYS),
        ] {
            match self.services.forget(history, days).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(
                    deleted,
                    table = history.table(),
                    days,
                    "old history deleted"
                ),
                Err(error) => tracing::warn!(
                    %error,
                    table = history.table(),
                    "old history not deleted; will retry"
                ),
            }
        }
    }
}

impl Services {
    async fn forget(&self, history: History, days: i64) -> sqlx::Result<u64> {
        // What is deleted is gone: a clock that is ahead must not decide alone.
        let agreed = self.earliest_now().await?;
        let Some(before) = agreed.checked_sub_signed(TimeDelta::days(days)) else {
            return Ok(0);
        };
        let mut deleted = 0;
        loop {
            let batch = store::delete_history(&self.db, history, before, BATCH).await?;
            deleted += batch;
            if batch < BATCH as u64 {
                return Ok(deleted);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The earlier one of this server's time and the database's.
    async fn earliest_now(&self) -> sqlx::Result<DateTime<Utc>> {
        let theirs = store::database_now(&self.db).await?;
        Ok(theirs.min(timestamp(&self.clock)))
    }
}
