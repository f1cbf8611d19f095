//! `secrets rotate` and `secrets status`: which key stored values are under.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, SecretsCommand, runtime};
use crate::config::{Config, ConfigError, Sources};
use crate::secrets::{Cipher, Protection, Rotated, Rotation};
use crate::server::{StartError, cipher};
use crate::store::{self, Db};

pub(super) fn run(file: Option<PathBuf>, command: SecretsCommand) -> Result<ExitCode, Failure> {
    let config = Config::from_sources(Sources::of_process(file))?;
    let cipher = cipher(&config)?;
    if matches!(command, SecretsCommand::Rotate { .. }) && !cipher.is_on() {
        return Err(ConfigError::single(
            "secrets.encryption_key: is required for a rotation; set SECRETS_ENCRYPTION_KEY to the \
             output of `openssl rand -base64 32`"
                .to_owned(),
        )
        .into());
    }
    runtime()?.block_on(async {
        let db = store::connect(&config).await.map_err(StartError::from)?;
        let done = work(&db, cipher, command).await;
        db.close().await;
        done
    })
}

async fn work(db: &Db, cipher: Cipher, command: SecretsCommand) -> Result<ExitCode, Failure> {
    if store::pending(db).await > 0 {
        let text = "the database is not up to date; run `migrate` first".to_owned();
        return Err(StartError::Database(text).into());
    }
    let rotation = Rotation::new(db.clone(), cipher);
    match command {
        SecretsCommand::Status => {
            status(&rotation).await.map_err(StartError::from)?;
            Ok(ExitCode::SUCCESS)
        }
        SecretsCommand::Rotate { dry_run } => {
            let rotated = rotation.run(dry_run).await.map_err(StartError::from)?;
            report(&rotation, &rotated, dry_run);
            match rotated.is_complete() {
                true => Ok(ExitCode::SUCCESS),
                false => Ok(ExitCode::FAILURE),
            }
        }
    }
}

/// One line per table and key.
async fn status(rotation: &Rotation) -> Result<(), sqlx::Error> {
    match rotation.cipher().current_id() {
        Some(id) => println!("current key: {id}"),
        None => println!("current key: none; new values are stored in PLAIN TEXT"),
    }
    let tallies = rotation.tally().await?;
    if tallies.is_empty() {
        println!("nothing is stored");
    }
    for tally in tallies {
        let about = describe(rotation.cipher(), &tally.protection);
        println!("{}: {} {about}", tally.table, tally.amount);
    }
    Ok(())
}

fn describe(cipher: &Cipher, protection: &Protection) -> String {
    match protection {
        Protection::Plain => "in plain text".to_owned(),
        Protection::Unnamed => "of version 1, which names no key".to_owned(),
        Protection::Unknown => "damaged or of an unknown version".to_owned(),
        Protection::Key(id) if cipher.current_id() == Some(id) => {
            format!("under the current key {id}")
        }
        Protection::Key(id) if cipher.knows(id) => format!("under the previous key {id}"),
        Protection::Key(id) => format!("under key {id}, which is NOT CONFIGURED"),
    }
}

fn report(rotation: &Rotation, rotated: &Rotated, dry_run: bool) {
    let key = rotation.cipher().current_id().unwrap_or_default();
    let verb = if dry_run { "to encrypt" } else { "encrypted" };
    for table in &rotated.tables {
        let mut line = format!(
            "{}: {} {verb} again with key {key}",
            table.table, table.sealed
        );
        if table.unreadable > 0 {
            line += &format!(", {} not readable", table.unreadable);
        }
        if table.left > 0 {
            line += &format!(
                ", {} still written with another key: give every server the new key, then run this again",
                table.left
            );
        }
        println!("{line}");
    }
    for row in &rotated.unreadable {
        let owner = match row.workspace_id {
            Some(id) => format!(" of workspace {id}"),
            None => String::new(),
        };
        println!(
            "not readable: {} {:?}{owner}: {}",
            row.table, row.key, row.cause
        );
    }
    let unnamed = rotated.unreadable_in_all() - rotated.unreadable.len() as u64;
    if unnamed > 0 {
        println!("not readable: {unnamed} more");
    }
    if rotated.is_complete() && !dry_run {
        println!("previous keys are not needed any more once every running server has key {key}");
    }
}

/// What `doctor` says of stored values: a sentence, and whether all is well, worth
/// a hint, or wrong.
pub(super) enum Finding {
    Good(String),
    /// Works, and should be changed.
    Warning(String, &'static str),
    Bad(String, &'static str),
}

/// Looks at how values are stored, not at the values.
pub(super) async fn examine(config: &Config, db: &Db) -> Finding {
    const ROTATE: &str = "`secrets rotate` encrypts them again with the current key";
    let cipher = match cipher(config) {
        Ok(cipher) => cipher,
        Err(error) => return Finding::Bad(error.to_string(), "mend secrets.encryption_key"),
    };
    let rotation = Rotation::new(db.clone(), cipher);
    let tallies = match rotation.tally().await {
        Ok(tallies) => tallies,
        Err(error) => return Finding::Bad(error.to_string(), "can the database be read?"),
    };
    let cipher = rotation.cipher();
    let count = |wanted: &dyn Fn(&Protection) -> bool| -> u64 {
        let counted = tallies.iter().filter(|tally| wanted(&tally.protection));
        counted.map(|tally| tally.amount).sum()
    };
    let all = count(&|_| true);
    let lost = count(&|protection| match protection {
        Protection::Key(id) => !cipher.knows(id),
        Protection::Unnamed => !cipher.is_on(),
        Protection::Unknown => true,
        Protection::Plain => false,
    });
    let plain = count(&|protection| *protection == Protection::Plain);
    let current = count(&|protection| match protection {
        Protection::Key(id) => cipher.current_id() == Some(id),
        _ => false,
    });
    if lost > 0 {
        return Finding::Bad(
            format!("{lost} of {all} value(s) are under a key that is not configured"),
            "add the key to secrets.previous_encryption_keys; `secrets status` names it",
        );
    }
    if !cipher.is_on() {
        return Finding::Warning(
            format!("no key is configured; {all} value(s) in PLAIN TEXT"),
            "set SECRETS_ENCRYPTION_KEY, then run `secrets rotate`",
        );
    }
    if plain > 0 {
        return Finding::Warning(format!("{plain} of {all} value(s) in PLAIN TEXT"), ROTATE);
    }
    match all - current {
        0 => Finding::Good(format!("{all} value(s), all under the current key")),
        old => Finding::Warning(
            format!("{old} of {all} value(s) under an earlier key"),
            ROTATE,
        ),
    }
}
