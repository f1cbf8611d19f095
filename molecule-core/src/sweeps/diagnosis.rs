//! What rows and backend say about a fleet that does not get on: for `doctor`.

mod strays;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

pub(crate) use strays::strays;

use super::store::{self, Stuck};
use crate::config::Config;
use crate::store::{Db, leader};

/// Clocks further apart than this confuse leases and ages.
const MAX_SKEW: TimeDelta = TimeDelta::seconds(5);
/// A holder of the lead that did not renew for this long is gone.
const LEADER_GONE: TimeDelta = TimeDelta::seconds(60);
/// What should take seconds and took this long is stuck.
const STUCK: TimeDelta = TimeDelta::minutes(10);
/// Ids named per finding; the longest stuck come first.
const EXAMPLES: usize = 3;
/// Rows counted per finding.
const COUNTED: i64 = 1000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Good,
    /// Right in some situations, such as a server that is switched off.
    Doubtful,
    Bad,
}

/// One line of `doctor`.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) what: &'static str,
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) advice: &'static str,
}

/// Looks at clocks, lead and rows.
pub(crate) async fn examine(db: &Db, config: &Config) -> sqlx::Result<Vec<Finding>> {
    let mut found = Vec::new();
    if let Db::Postgres(_) = db {
        let before = Utc::now();
        let theirs = store::database_now(db).await?;
        // The answer took time; it belongs to some moment of it.
        let ours = before + (Utc::now() - before) / 2;
        found.push(clocks(theirs - ours));
        found.push(lead(leader::held(db).await?, theirs));
    }
    found.extend(stuck_rows(db, config, Utc::now()).await?);
    Ok(found)
}

/// The database's time less this machine's.
fn clocks(skew: TimeDelta) -> Finding {
    let millis = skew.num_milliseconds();
    let is_good = skew.abs() <= MAX_SKEW;
    Finding {
        severity: if is_good {
            Severity::Good
        } else {
            Severity::Bad
        },
        what: "clock",
        text: match millis {
            0.. => format!("the database's clock is {millis} ms ahead of this machine's"),
            _ => format!(
                "the database's clock is {} ms behind this machine's",
                -millis
            ),
        },
        advice: "let NTP set both clocks; provisioning leases and the ages of heartbeats depend on them",
    }
}

fn lead(held: Option<leader::Held>, now: DateTime<Utc>) -> Finding {
    let doubtful = |text: String, advice| Finding {
        severity: Severity::Doubtful,
        what: "leader",
        text,
        advice,
    };
    match held {
        None => doubtful(
            "none: no server of this version ran on this database yet".to_owned(),
            "start a server",
        ),
        Some(held) if held.holder.is_empty() => doubtful(
            "none: every server was shut down".to_owned(),
            "start a server; until then nobody notices silent agents",
        ),
        Some(held) => {
            let age = now - held.renewed_at;
            let text = format!(
                "{}, renewed {} s ago",
                held.holder,
                age.num_seconds().max(0)
            );
            if age > LEADER_GONE {
                return doubtful(
                    text,
                    "its server is gone and no other took over: start one, or look in the logs of \
                     those that run for errors of the database",
                );
            }
            Finding {
                severity: Severity::Good,
                what: "leader",
                text,
                advice: "",
            }
        }
    }
}

async fn stuck_rows(db: &Db, config: &Config, now: DateTime<Utc>) -> sqlx::Result<Vec<Finding>> {
    let timeout = config
        .workspaces
        .provision_timeout_secs
        .map_or(600, |secs| i64::try_from(secs).unwrap_or(i64::MAX));
    let timeout = TimeDelta::try_seconds(timeout).unwrap_or(STUCK);
    let mut found = Vec::new();
    for (kind, age, text, advice) in [
        (
            Stuck::Abandoned,
            TimeDelta::minutes(1),
            "provisioning was given up by its server and taken over by none",
            "start a server with a working backend; it starts them over by itself",
        ),
        (
            Stuck::NeverRegistered,
            timeout + TimeDelta::minutes(2),
            "were started and never registered, and nobody gave up on them",
            "start a server; look at the log of the agent and whether it reaches server.platform_url",
        ),
        (
            Stuck::RestartWaiting,
            STUCK,
            "wait for a restart",
            "many at once are restarted a few a minute (workspaces.restarts_per_minute); otherwise \
             look whether a server runs and its backend answers",
        ),
        (
            Stuck::FallingAsleep,
            STUCK,
            "began to hibernate and did not end",
            "their server died or the backend could not stop them; restart them, or start a server",
        ),
    ] {
        let rows = match now.checked_sub_signed(age) {
            Some(before) => store::stuck(db, kind, before, COUNTED).await?,
            None => Vec::new(),
        };
        if !rows.is_empty() {
            found.push(Finding {
                severity: Severity::Doubtful,
                what: "workspaces",
                text: format!("{} {text}: {}", count(&rows), examples(&rows)),
                advice,
            });
        }
    }
    if found.is_empty() {
        found.push(Finding {
            severity: Severity::Good,
            what: "workspaces",
            text: "none is stuck".to_owned(),
            advice: "",
        });
    }
    Ok(found)
}

fn count(rows: &[Uuid]) -> String {
    match rows.len() {
        many if many >= COUNTED as usize => format!("{COUNTED} or more"),
        few => few.to_string(),
    }
}

fn examples(rows: &[Uuid]) -> String {
    let named: Vec<String> = rows.iter().take(EXAMPLES).map(Uuid::to_string).collect();
    let more = if rows.len() > EXAMPLES { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_five_seconds() {
        for (millis, severity) in [
            (0, Severity::Good),
            (5000, Severity::Good),
            (-5000, Severity::Good),
            (5001, Severity::Bad),
            (-5001, Severity::Bad),
        ] {
            let found = clocks(TimeDelta::milliseconds(millis));
            assert_eq!(found.severity, severity, "{millis}");
        }
        assert!(
            clocks(TimeDelta::seconds(-9))
                .text
                .contains("9000 ms behind")
        );
        assert!(clocks(TimeDelta::seconds(9)).text.contains("9000 ms ahead"));
    }

    #[test]
    fn a_leader_is_there_gone_or_was_shut_down() {
        let now = Utc::now();
        let held = |holder: &str, secs| {
            Some(leader::Held {
                holder: holder.to_owned(),
                renewed_at: now - TimeDelta::seconds(secs),
            })
        };
        let fresh = lead(held("here/1/abc", 2), now);
        assert_eq!(fresh.severity, Severity::Good);
        assert_eq!(fresh.text, "here/1/abc, renewed 2 s ago");
        let gone = lead(held("here/1/abc", 61), now);
        assert_eq!(gone.severity, Severity::Doubtful);
        assert!(lead(held("", 2), now).text.contains("shut down"));
        assert!(lead(None, now).text.contains("yet"));
    }

    #[test]
    fn many_rows_are_counted_and_few_named() {
        let rows: Vec<Uuid> = (0..1000_u128).map(Uuid::from_u128).collect();
        assert_eq!(count(&rows), "1000 or more");
        assert_eq!(count(&rows[..4]), "4");
        assert!(examples(&rows).ends_with(", …"));
        assert_eq!(examples(&rows[..1]), rows[0].to_string());
    }
}
