//! What is doubtful about plugins, for `doctor`.

use std::io;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::registry::RegistryFolder;
use super::store::drift::{self, Undelivered};
use super::store::queue;
use crate::backend::{Fact, FactLevel};
use crate::config::{Config, ProcessConfig, SignaturePolicy};
use crate::git::{Bounds, Git, GitError};
use crate::store::Db;

const WHAT: &str = "plugins";
/// An update that waits longer was forgotten.
const LONG: TimeDelta = TimeDelta::days(7);
/// Plugins named per finding.
const EXAMPLES: usize = 3;
/// Rows counted per finding.
const COUNTED: i64 = 1000;
/// Asking git for its version may take this long.
const GIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at folder, settings, git and rows.
///
/// # Errors
/// Those of the database.
pub(crate) async fn examine(db: &Db, config: &Config) -> sqlx::Result<Vec<Fact>> {
    let mut found = Vec::new();
    let local = drift::of_local(db).await?;
    found.extend(folder(config, local).await);
    let git = drift::of_git(db).await?;
    found.extend(program(git).await);
    found.extend(signatures(config));
    let waiting = queue::pending_since(db, Utc::now() - LONG).await?;
    found.extend(forgotten(waiting));
    found.extend(undelivered(&drift::undelivered(db, COUNTED).await?));
    let unseen = drift::unseen_since(db, overdue(config)).await?;
    found.extend(unlooked(unseen));
    if found.is_empty() {
        found.push(Fact {
            level: FactLevel::Good,
            what: WHAT,
            text: "nothing is wrong with them".to_owned(),
            advice: "",
        });
    }
    Ok(found)
}

fn doubtful(text: String, advice: &'static str) -> Fact {
    Fact {
        level: FactLevel::Doubtful,
        what: WHAT,
        text,
        advice,
    }
}

/// The server's own folder of plugins. It may be missing while nobody needs it.
async fn folder(config: &Config, users: i64) -> Option<Fact> {
    let folder = RegistryFolder::of(config);
    let looking = tokio::task::spawn_blocking(move || content(&folder.find()));
    let problem = match looking
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
    {
        Ok(0) => "is empty".to_owned(),
        Ok(_) => return None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is not there".to_owned(),
        Err(error) => format!("cannot be read: {}", error.kind()),
    };
    // One that cannot be read is a trouble of its own.
    let is_needed = users > 0 || !matches!(&*problem, "is empty" | "is not there");
    is_needed.then(|| {
        doubtful(
            format!("the folder of local:// {problem}; {users} installed plugin(s) come from it"),
            "set plugins.registry_dir, or put the plugins there: workspaces that are rebuilt will \
             lack them",
        )
    })
}

/// How many folders are in a folder.
fn content(dir: &Path) -> io::Result<usize> {
    let entries = std::fs::read_dir(dir)?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.take(1).count())
}

async fn program(users: i64) -> Option<Fact> {
    let search_path = ProcessConfig::search_path();
    let git = Git {
        search_path: &search_path,
        home: Path::new("/"),
        protocols: "https",
    };
    let mut command = git.command(&[]);
    command.arg("--version");
    let never = CancellationToken::new();
    let asking = git.run(command, Bounds::within(GIT_TIMEOUT), &never);
    let problem = match asking.await {
        Ok(_) => return None,
        // Whoever has no plugin from git may not need it.
        Err(GitError::Missing) if users == 0 => return None,
        Err(GitError::Missing) => "is not on the PATH",
        Err(_) => "does not work",
    };
    let text = format!("git {problem}; {users} installed plugin(s) come from github://");
    Some(doubtful(
        text,
        "install git on this machine: without it they are neither updated nor brought to rebuilt \
         workspaces",
    ))
}

fn signatures(config: &Config) -> Option<Fact> {
    let plugins = &config.plugins;
    let is_idle =
        !plugins.trusted_keys.is_empty() && plugins.require_signature == SignaturePolicy::Off;
    is_idle.then(|| {
        doubtful(
            "there are trusted keys, and no signature is asked for".to_owned(),
            "set plugins.require_signature (PLUGIN_REQUIRE_SIGNATURE) to warn or enforce",
        )
    })
}

fn forgotten(waiting: i64) -> Option<Fact> {
    (waiting > 0).then(|| {
        doubtful(
            format!("{waiting} update(s) wait for a decision for more than a week"),
            "GET /admin/plugin-updates-pending lists them; apply or dismiss each",
        )
    })
}

fn undelivered(rows: &[Undelivered]) -> Option<Fact> {
    if rows.is_empty() {
        return None;
    }
    let named: Vec<String> = rows
        .iter()
        .take(EXAMPLES)
        .map(|row| {
            let (plugin, workspace) = (&row.plugin_name, row.workspace_id);
            format!("{plugin} in {workspace} ({})", row.delivery_error)
        })
        .collect();
    let more = if rows.len() > EXAMPLES { ", …" } else { "" };
    let text = format!(
        "{} are missing since their workspace started last: {}{more}",
        rows.len(),
        named.join(", ")
    );
    Some(doubtful(
        text,
        "the server's log has the reason; restart the workspace once it is mended, or uninstall \
         the plugin",
    ))
}

/// Whoever was not looked at since then is overdue; none where nobody looks.
fn overdue(config: &Config) -> Option<DateTime<Utc>> {
    let secs = i64::try_from(config.plugins.drift_interval_secs).ok()?;
    let most = TimeDelta::try_seconds(secs.checked_mul(4)?)?.max(TimeDelta::days(2));
    (secs > 0).then(|| Utc::now().checked_sub_signed(most))?
}

fn unlooked(rows: i64) -> Option<Fact> {
    (rows > 0).then(|| {
        doubtful(
            format!("{rows} tracked plugin(s) were not asked for newer revisions for days"),
            "the server's log says which upstream does not answer; does a server run?",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_nobody_asks_for_are_named() {
        let mut config = Config::default();
        assert_eq!(signatures(&config), None);
        config.plugins.trusted_keys = vec!["ed25519:x".to_owned()];
        let found = signatures(&config).unwrap();
        assert_eq!(found.level, FactLevel::Doubtful);
        config.plugins.require_signature = SignaturePolicy::Warn;
        assert_eq!(signatures(&config), None);
    }

    #[tokio::test]
    async fn a_folder_that_nobody_needs_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.plugins.registry_dir = Some(dir.path().join("none"));
        assert_eq!(folder(&config, 0).await, None);
        let missing = folder(&config, 2).await.unwrap();
        assert!(missing.text.contains("is not there; 2"), "{}", missing.text);
        config.plugins.registry_dir = Some(dir.path().to_owned());
        assert!(folder(&config, 1).await.unwrap().text.contains("is empty"));
        std::fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(folder(&config, 1).await, None);
        config.plugins.registry_dir = Some(Path::new("/proc/version").to_owned());
        let odd = folder(&config, 0).await.unwrap();
        assert!(odd.text.contains("cannot be read"), "{}", odd.text);
    }

    #[tokio::test]
    async fn git_is_there() {
        assert_eq!(program(1).await, None);
    }

    #[test]
    fn nobody_is_overdue_where_nobody_looks() {
        let mut config = Config::default();
        let usual = overdue(&config).unwrap();
        assert!(Utc::now() - usual >= TimeDelta::days(2));
        config.plugins.drift_interval_secs = u64::MAX;
        assert_eq!(overdue(&config), None);
        config.plugins.drift_interval_secs = 0;
        assert_eq!(overdue(&config), None);
    }
}
