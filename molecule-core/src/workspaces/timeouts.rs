//! How long a started agent has to register.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Services;
use super::store::{self, lease::Lease};
use super::template::ConfigFacts;

/// What an agent has when nobody says otherwise.
const DEFAULT_SECS: u64 = 600;
/// Runtimes whose agents are slow to start.
const SLOW_RUNTIMES: &[(&str, u64)] = &[("hermes", 1800)];
/// The templates are read again after this long.
const TTL: Duration = Duration::from_secs(30);
/// Most folders that are looked into.
const MAX_TEMPLATES: usize = 1000;

/// No agent has less time than this.
pub(super) fn shortest_secs(configured: Option<u64>) -> u64 {
    configured.unwrap_or(DEFAULT_SECS)
}

/// What the operator configured; else what its template declares, if that is more
/// than its runtime has anyway.
fn limit_secs(configured: Option<u64>, runtime: &str, declared: Option<i64>) -> u64 {
    let usual = SLOW_RUNTIMES
        .iter()
        .find(|(name, _)| *name == runtime)
        .map_or(DEFAULT_SECS, |(_, secs)| *secs);
    let declared = declared.and_then(|secs| u64::try_from(secs).ok());
    configured.unwrap_or_else(|| declared.map_or(usual, |secs| secs.max(usual)))
}

impl Services {
    /// Seconds that an agent of this runtime has to register, where its template
    /// declares so many.
    pub(super) fn provision_timeout_secs(&self, runtime: &str, declared: Option<i64>) -> u64 {
        let configured = self.config.workspaces.provision_timeout_secs;
        limit_secs(configured, runtime, declared)
    }

    /// Keeps what the configuration that an agent is about to boot with declares, if
    /// it does. Nothing depends on it enough to fail the boot.
    pub(super) async fn note_timeout(&self, lease: Lease, facts: &ConfigFacts) {
        let Some(secs) = facts.provision_timeout_secs else {
            return;
        };
        if let Err(error) = store::timeouts::note(&self.db, lease, secs).await {
            tracing::warn!(workspace.id = %lease.id, %error, "provision timeout not noted");
        }
    }
}

/// Seconds by runtime, as the templates declare them.
type BySeconds = Arc<HashMap<String, i64>>;

/// What the templates declare, read at most every half minute.
#[derive(Default)]
pub(super) struct Declared(Mutex<Option<(Instant, BySeconds)>>);

impl Declared {
    /// The largest timeout of any template, by runtime.
    pub(super) async fn by_runtime(&self, templates: Option<&Path>) -> BySeconds {
        let Some(root) = templates else {
            return BySeconds::default();
        };
        if let Some((read_at, known)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && read_at.elapsed() < TTL
        {
            return Arc::clone(known);
        }
        let read_at = Instant::now();
        let found = Arc::new(read(root).await);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((read_at, Arc::clone(&found)));
        found
    }
}

/// Folders that cannot be read declare nothing.
async fn read(root: &Path) -> HashMap<String, i64> {
    let mut found: HashMap<String, i64> = HashMap::new();
    let Ok(mut folders) = tokio::fs::read_dir(root).await else {
        return found;
    };
    for _ in 0..MAX_TEMPLATES {
        let Ok(Some(folder)) = folders.next_entry().await else {
            break;
        };
        let facts = ConfigFacts::of_folder(&folder.path()).await;
        if let (Some(runtime), Some(secs)) = (facts.runtime, facts.provision_timeout_secs) {
            let most = found.entry(runtime).or_default();
            *most = secs.max(*most);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_wins_then_the_longer_of_template_and_runtime() {
        let table = [
            (None, "langgraph", None, 600),
            (None, "hermes", None, 1800),
            (None, "langgraph", Some(900), 900),
            (None, "langgraph", Some(30), 600),
            (None, "hermes", Some(900), 1800),
            (None, "hermes", Some(3600), 3600),
            (Some(60), "langgraph", None, 60),
            (Some(60), "hermes", Some(3600), 60),
            (Some(7200), "langgraph", Some(900), 7200),
            (None, "langgraph", Some(-1), 600),
        ];
        for (configured, runtime, declared, expected) in table {
            let limit = limit_secs(configured, runtime, declared);
            assert_eq!(limit, expected, "{configured:?} {runtime} {declared:?}");
            assert!(limit >= shortest_secs(configured));
        }
    }

    #[tokio::test]
    async fn the_largest_of_all_templates_counts_and_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        let put = |folder: &str, text: &str| {
            let dir = root.path().join(folder);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("config.yaml"), text).unwrap();
        };
        let config = |runtime: &str, secs: i64| {
            format!("runtime: {runtime}\nruntime_config:\n  provision_timeout_seconds: {secs}\n")
        };
        put("a", &config("hermes", 2000));
        put("b", &config("hermes", 2500));
        put("c", &config("codex", 700));
        put("d", "runtime: langgraph\n");
        put("e", "{{{");
        std::fs::write(root.path().join("file"), "").unwrap();
        let declared = Declared::default();
        let found = declared.by_runtime(Some(root.path())).await;
        let expected = HashMap::from([("hermes".to_owned(), 2500), ("codex".to_owned(), 700)]);
        assert_eq!(*found, expected);
        put("f", &config("hermes", 9000));
        assert_eq!(*declared.by_runtime(Some(root.path())).await, expected);
        assert!(declared.by_runtime(None).await.is_empty());
        let missing = root.path().join("missing");
        assert!(
            Declared::default()
                .by_runtime(Some(&missing))
                .await
                .is_empty()
        );
    }
}
