//! `doctor`: what is wrong and what to do about it.

use std::path::Path;

use molecule_hooks::Registry;

use super::Failure;
use super::secrets::{self, Finding};
use crate::backend::{Fact, FactLevel, NO_INSTANCE, SharedBackend};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::server::choose_backend;
use crate::store::Db;
use crate::sweeps::diagnosis::{self, Severity};
use crate::{identity, plugins, store};

/// Free space below which the data directory is in danger.
const LOW_DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Prints one line per finding; true when nothing is wrong.
pub(super) async fn examine(loaded: Result<(Config, Registry), Failure>) -> bool {
    let (config, registry) = match loaded {
        Ok(loaded) => {
            good("configuration", "complete");
            loaded
        }
        Err(failure) => {
            bad(
                "configuration",
                &failure.to_string(),
                "mend the lines above, then run doctor again",
            );
            return false;
        }
    };
    good("hooks", &format!("[{}]", registry.names().join(", ")));
    let (database, fleet) = database(&config).await;
    // Any id will do for asking whether the backend answers.
    let instance = database.as_deref().unwrap_or(NO_INSTANCE);
    let backend = backend(&config, instance).await;
    let disk = disk(&config.data_dir.0);
    database.is_some() && fleet && backend && disk
}

/// The database's instance id when it works, and whether what is in it is well.
async fn database(config: &Config) -> (Option<String>, bool) {
    let db = match store::connect(config).await {
        Ok(db) => db,
        Err(error) => {
            bad(
                "database",
                &format!("{:#}", anyhow::Error::from(error)),
                "check DATABASE_URL and that the server runs; running servers answer 503 to everything \
                 and go on by themselves when it is back",
            );
            return (None, false);
        }
    };
    let instance = schema(&db).await;
    let fleet = match &instance {
        Schema::UpToDate(_) => {
            let fleet = fleet(&db, config).await;
            plugins(&db, config).await;
            tell("secrets", &secrets::examine(config, &db).await) && fleet
        }
        // Without its tables there is nothing to say.
        Schema::Behind => true,
        Schema::Unusable => false,
    };
    db.close().await;
    match instance {
        Schema::UpToDate(instance) => (Some(instance), fleet),
        Schema::Behind => (Some(NO_INSTANCE.to_owned()), fleet),
        Schema::Unusable => (None, fleet),
    }
}

/// What the database is good for.
enum Schema {
    /// Everything; with its instance id.
    UpToDate(String),
    /// The next start makes it good.
    Behind,
    Unusable,
}

async fn schema(db: &Db) -> Schema {
    if store::is_ahead(db).await {
        bad(
            "database",
            "a newer version of this server migrated it",
            "run that version, or restore the backup from before",
        );
        return Schema::Unusable;
    }
    let pending = store::pending(db).await;
    if pending > 0 {
        let text = format!(
            "{}, {pending} migration(s) pending; `migrate` or the next start applies them",
            db.engine()
        );
        good("database", &text);
        return Schema::Behind;
    }
    match identity::of_database(db).await {
        Ok(instance) => {
            let text = format!("{}, up to date, instance {instance}", db.engine());
            good("database", &text);
            Schema::UpToDate(instance)
        }
        Err(error) => {
            let text = error.to_string();
            let advice = match Error::from(error).kind() {
                Kind::Unavailable => {
                    "somebody holds a lock for longer than database.timeout_secs, or its disk is \
                     full: end the long transaction (a backup? a shell?) or make room"
                }
                _ => "is the database writable?",
            };
            bad("database", &text, advice);
            Schema::Unusable
        }
    }
}

/// Clocks, leader and rows; true when nothing is wrong.
async fn fleet(db: &Db, config: &Config) -> bool {
    let found = match diagnosis::examine(db, config).await {
        Ok(found) => found,
        Err(error) => {
            bad("workspaces", &error.to_string(), "is the database busy?");
            return false;
        }
    };
    found.iter().for_each(tell_finding);
    found.iter().all(|found| found.severity != Severity::Bad)
}

/// What may be wrong with plugins. None of it keeps a server from working.
async fn plugins(db: &Db, config: &Config) {
    match plugins::diagnosis::examine(db, config).await {
        Ok(facts) => facts.iter().for_each(tell_fact),
        Err(error) => doubtful("plugins", &error.to_string(), "is the database busy?"),
    }
}

async fn backend(config: &Config, instance: &str) -> bool {
    let backend = match choose_backend(config, instance).await {
        Ok(backend) => backend,
        Err(error) => {
            bad(
                "backend",
                &error.to_string(),
                "is the Docker daemon running, and may this user talk to it?",
            );
            return false;
        }
    };
    let answer = backend.check().await;
    let facts = match answer {
        Ok(_) => backend.facts().await,
        Err(_) => Vec::new(),
    };
    if answer.is_ok() && instance != NO_INSTANCE {
        orphans(config, &backend).await;
    }
    backend.shutdown().await;
    match answer {
        Ok(about) => {
            good("backend", &format!("{}: {about}", backend.kind().as_str()));
            facts.iter().for_each(tell_fact);
            facts.iter().all(|fact| fact.level != FactLevel::Bad)
        }
        Err(error) => {
            bad(
                "backend",
                &format!("{:#}", anyhow::Error::from(error)),
                "is the Docker daemon running?",
            );
            false
        }
    }
}

/// What the backend holds that no row knows of.
async fn orphans(config: &Config, backend: &SharedBackend) {
    // It worked a moment ago; if it does not, that was said.
    let Ok(db) = store::connect(config).await else {
        return;
    };
    if let Ok(Some(finding)) = diagnosis::strays(&db, config, backend).await {
        tell_finding(&finding);
    }
    db.close().await;
}

fn tell_finding(finding: &diagnosis::Finding) {
    match finding.severity {
        Severity::Good => good(finding.what, &finding.text),
        Severity::Doubtful => doubtful(finding.what, &finding.text, finding.advice),
        Severity::Bad => bad(finding.what, &finding.text, finding.advice),
    }
}

fn tell_fact(fact: &Fact) {
    match fact.level {
        FactLevel::Good => good(fact.what, &fact.text),
        FactLevel::Doubtful => doubtful(fact.what, &fact.text, fact.advice),
        FactLevel::Bad => bad(fact.what, &fact.text, fact.advice),
    }
}

fn disk(dir: &Path) -> bool {
    let existing = dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("."));
    let stat = match rustix::fs::statvfs(existing) {
        Ok(stat) => stat,
        Err(error) => {
            bad("disk", &error.to_string(), "check data_dir");
            return false;
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} MiB free for data_dir", free / 1024 / 1024);
    match free >= LOW_DISK_BYTES {
        true => good("disk", &text),
        false => bad("disk", &text, "make room or move data_dir"),
    }
    free >= LOW_DISK_BYTES
}

/// Prints a finding; true when nothing is wrong.
fn tell(what: &str, finding: &Finding) -> bool {
    match finding {
        Finding::Good(text) => good(what, text),
        Finding::Warning(text, advice) => println!("warn  {what}: {text}\n      hint: {advice}"),
        Finding::Bad(text, advice) => bad(what, text, advice),
    }
    !matches!(finding, Finding::Bad(..))
}

fn good(what: &str, text: &str) {
    println!("ok    {what}: {text}");
}

fn doubtful(what: &str, text: &str, advice: &str) {
    println!("warn  {what}: {text}\n      hint: {advice}");
}

fn bad(what: &str, text: &str, advice: &str) {
    println!("FAIL  {what}: {text}\n      hint: {advice}");
}
