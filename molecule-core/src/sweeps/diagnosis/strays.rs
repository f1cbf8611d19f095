//! What the backend holds that no row knows of.

use std::time::Duration;

use uuid::Uuid;

use super::{Finding, Severity, examples};
use crate::backend::{BackendKind, SharedBackend};
use crate::config::Config;
use crate::store::Db;
use crate::sweeps::orphans::most_strays;
use crate::sweeps::store;

/// A list of everything may take this long.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Compares the rows with what the backend holds for this database. Nothing where
/// there is no backend, or where it does not say.
pub(crate) async fn strays(
    db: &Db,
    config: &Config,
    backend: &SharedBackend,
) -> sqlx::Result<Option<Finding>> {
    if backend.kind() == BackendKind::None {
        return Ok(None);
    }
    let listing = tokio::time::timeout(LIST_TIMEOUT, backend.list_managed());
    let Ok(Ok(managed)) = listing.await else {
        return Ok(None);
    };
    let ids: Vec<Uuid> = managed.iter().map(|item| item.workspace_id).collect();
    let rows = store::standing(db, &ids).await?;
    let mut strays = ids;
    strays.retain(|id| !rows.contains_key(id));
    let percent = config.backend.orphan_limit_percent;
    Ok(Some(finding(&strays, managed.len(), percent)))
}

fn finding(strays: &[Uuid], held: usize, percent: u8) -> Finding {
    let what = "orphans";
    if strays.is_empty() {
        return Finding {
            severity: Severity::Good,
            what,
            text: format!("none among the {held} workspaces that the backend holds"),
            advice: "",
        };
    }
    let count = strays.len();
    let examples = examples(strays);
    let advice = match count > most_strays(held, percent) {
        true => {
            "so many are left alone: is this the right database? If they may go, raise \
             backend.orphan_limit_percent"
        }
        false => "a running server removes them within two minutes",
    };
    Finding {
        severity: Severity::Doubtful,
        what,
        text: format!("{count} of {held} workspaces on the backend have no row: {examples}"),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_strays_get_different_advice() {
        let ids: Vec<Uuid> = (0..50_u128).map(Uuid::from_u128).collect();
        assert_eq!(finding(&[], 50, 20).severity, Severity::Good);
        let few = finding(&ids[..2], 50, 20);
        assert_eq!(few.severity, Severity::Doubtful);
        assert!(few.text.starts_with("2 of 50 workspaces"), "{}", few.text);
        assert!(few.advice.contains("removes them"), "{}", few.advice);
        let many = finding(&ids, 50, 20);
        assert!(many.advice.contains("right database"), "{}", many.advice);
        let allowed = finding(&ids, 50, 100);
        assert!(
            allowed.advice.contains("removes them"),
            "{}",
            allowed.advice
        );
    }
}
