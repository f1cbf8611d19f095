//! `doctor`: what is wrong and what to do about it.

use std::path::Path;

use molecule_hooks::Registry;

use super::Failure;
use super::secrets::{self, Finding};
use crate::config::Config;
use crate::server::choose_backend;
use crate::{identity, store};

/// Free space below which the data directory is in danger.
const LOW_DISK_BYTES: u64 = 1024 * 1024 * 1024;
/// Any id will do for asking whether the backend answers.
const ANY_INSTANCE: &str = "doctor";

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
    let database = database(&config).await;
    let instance = database
        .as_ref()
        .map_or(ANY_INSTANCE, |database| &database.instance);
    let backend = backend(&config, instance).await;
    let disk = disk(&config.data_dir.0);
    database.is_some_and(|database| database.is_readable) && backend && disk
}

/// A database that works.
struct Database {
    instance: String,
    /// Whether the configured keys fit what is stored.
    is_readable: bool,
}

/// Nothing when it does not work.
async fn database(config: &Config) -> Option<Database> {
    let db = match store::connect(config).await {
        Ok(db) => db,
        Err(error) => {
            bad(
                "database",
                &format!("{:#}", anyhow::Error::from(error)),
                "check DATABASE_URL and that the server runs",
            );
            return None;
        }
    };
    let pending = store::pending(&db).await;
    let instance = match pending {
        0 => identity::of_database(&db)
            .await
            .map_err(|error| error.to_string()),
        pending => {
            good(
                "database",
                &format!(
                    "{}, {pending} migration(s) pending; `migrate` or the next start applies them",
                    db.engine()
                ),
            );
            db.close().await;
            return Some(Database {
                instance: ANY_INSTANCE.to_owned(),
                is_readable: true,
            });
        }
    };
    let engine = db.engine();
    let instance = match instance {
        Ok(instance) => instance,
        Err(error) => {
            db.close().await;
            bad("database", &error, "is the database writable?");
            return None;
        }
    };
    good(
        "database",
        &format!("{engine}, up to date, instance {instance}"),
    );
    let stored = secrets::examine(config, &db).await;
    db.close().await;
    Some(Database {
        instance,
        is_readable: tell("secrets", &stored),
    })
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
    backend.shutdown().await;
    match answer {
        Ok(about) => {
            good("backend", &format!("{}: {about}", backend.kind().as_str()));
            true
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

fn bad(what: &str, text: &str, advice: &str) {
    println!("FAIL  {what}: {text}\n      hint: {advice}");
}
