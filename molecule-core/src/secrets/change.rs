//! Writing and deleting secrets, each change with the restarts that it causes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::Secret;

use super::check::{check_key, check_value};
use super::cipher::is_same;
use super::model::{Scope, SecretRow};
use super::{MAX_SECRETS, MODEL_KEY, Secrets, store};
use crate::error::{Error, Result};
use crate::store::{Tx, is_deadlock, timestamp};

/// How often a transaction that the database gave up for another one is begun
/// again, and how long the first pause is.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// Clocks of two servers of one database may differ by this much.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(5);

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Refused {
    /// The database failed; another attempt may work.
    Store(sqlx::Error),
    /// For the client as it is.
    Said(Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

/// The documented texts of a scope.
struct Texts {
    encrypt: &'static str,
    save: &'static str,
    delete: &'static str,
}

impl Scope {
    fn texts(self) -> Texts {
        match self {
            Self::Global => Texts {
                encrypt: "failed to encrypt",
                save: "failed to save",
                delete: "failed to delete",
            },
            Self::Workspace(_) => Texts {
                encrypt: "failed to encrypt secret",
                save: "failed to save secret",
                delete: "failed to delete secret",
            },
        }
    }
}

/// A key and a value that may be stored.
pub(crate) struct Entry {
    key: String,
    value: Secret,
}

impl Entry {
    /// Checks key and value.
    ///
    /// # Errors
    /// The field and the rule that it breaks; nothing of key or value but a key
    /// that belongs to the platform.
    pub(crate) fn new(key: Option<String>, value: Option<Secret>) -> Result<Self, String> {
        let key = key.unwrap_or_default();
        let value = value.unwrap_or_else(|| Secret::new(""));
        if key.is_empty() {
            return Err("key: is required".to_owned());
        }
        check_key(&key).map_err(|problem| format!("key: {problem}"))?;
        if value.expose().is_empty() {
            return Err("value: is required".to_owned());
        }
        check_value(&key, value.expose()).map_err(|problem| format!("value: {problem}"))?;
        Ok(Self { key, value })
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

/// What is to become of a scope.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    Set(&'a Entry),
    Delete(&'a str),
    /// Of a workspace; none leaves the choice to its runtime.
    Model(Option<&'a Secret>),
}

impl Change<'_> {
    fn key(&self) -> &str {
        match self {
            Self::Set(entry) => &entry.key,
            Self::Delete(key) => key,
            Self::Model(_) => MODEL_KEY,
        }
    }

    /// The documented text of a database that fails.
    fn text(&self, scope: Scope) -> &'static str {
        match self {
            Self::Set(_) => scope.texts().save,
            Self::Delete(_) => scope.texts().delete,
            Self::Model(Some(_)) => "failed to save model",
            Self::Model(None) => "failed to clear model",
        }
    }
}

impl Secrets {
    /// Writes a secret and requests the restarts that it needs, together. True
    /// when there are any; a value that is stored already needs none.
    ///
    /// # Errors
    /// 404 for a workspace that is not there; 400 when there are too many; 500 with
    /// the documented texts.
    pub(crate) async fn set(&self, scope: Scope, entry: &Entry) -> Result<bool> {
        self.teach(scope, &entry.key, entry.value.expose());
        self.make(scope, Change::Set(entry)).await
    }

    /// Deletes a secret and requests the restarts that this needs.
    ///
    /// # Errors
    /// 404 for a workspace or a secret that is not there; 500 with the documented
    /// texts.
    pub(crate) async fn delete(&self, scope: Scope, key: &str) -> Result<bool> {
        if key.contains('\0') {
            // No database can hold such a key, and PostgreSQL will not look for it.
            return Err(no_secret());
        }
        self.make(scope, Change::Delete(key)).await
    }

    /// Makes one change, again when the database gave it up for another one. True
    /// when agents must restart for it.
    pub(super) async fn make(&self, scope: Scope, change: Change<'_>) -> Result<bool> {
        let began = timestamp(&self.clock);
        let text = change.text(scope);
        let mut attempt = 1;
        let changed = loop {
            match self.attempt(scope, change).await {
                Ok(changed) => break changed,
                Err(Refused::Said(error)) => return Err(error),
                Err(Refused::Store(error)) if attempt < ATTEMPTS && is_deadlock(&error) => {
                    tracing::debug!(%error, attempt, "a change of a secret begins again");
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(Refused::Store(error)) => return Err(Error::from(error).says(text)),
            }
        };
        if changed && scope == Scope::Global {
            self.catch_up(change.key(), began).await;
        }
        Ok(changed)
    }

    /// The change and the requests for restarts, in one transaction.
    async fn attempt(&self, scope: Scope, change: Change<'_>) -> Result<bool, Refused> {
        let mut tx = self.db.begin().await?;
        // Has the scope to itself until the transaction ends.
        if !store::lock(&mut tx, scope).await? {
            return Err(Refused::Said(Error::not_found("workspace not found")));
        }
        let changed = match change {
            Change::Set(entry) => self.write_entry(&mut tx, scope, entry).await?,
            Change::Delete(key) => self.erase(&mut tx, scope, key).await?,
            Change::Model(model) => self.write_model(&mut tx, scope, model).await?,
        };
        if changed {
            let now = timestamp(&self.clock);
            store::restart::request(&mut tx, scope, change.key(), now).await?;
        }
        tx.commit().await?;
        Ok(changed)
    }

    async fn write_entry(
        &self,
        tx: &mut Tx,
        scope: Scope,
        Entry { key, value }: &Entry,
    ) -> Result<bool, Refused> {
        let old = store::find(tx, scope, key).await?;
        if old.is_none() && store::count(tx, scope).await? >= MAX_SECRETS as i64 {
            return Err(Refused::Said(too_many()));
        }
        let text = scope.texts().encrypt;
        let mut changed = self
            .write(tx, scope, key, value, old.as_ref(), text)
            .await?;
        if let (Scope::Workspace(id), MODEL_KEY) = (scope, key.as_str()) {
            changed |= store::set_model(tx, id, Some(value.expose())).await?;
        }
        Ok(changed)
    }

    async fn erase(&self, tx: &mut Tx, scope: Scope, key: &str) -> Result<bool, Refused> {
        if !store::delete(tx, scope, key).await? {
            return Err(Refused::Said(no_secret()));
        }
        if let (Scope::Workspace(id), MODEL_KEY) = (scope, key) {
            store::set_model(tx, id, None).await?;
        }
        Ok(true)
    }

    /// Writes a value over `old`, which was read in this transaction. True when it
    /// is another value; an equal one is at most sealed again. `text` is for a
    /// value that cannot be sealed.
    pub(super) async fn write(
        &self,
        tx: &mut Tx,
        scope: Scope,
        key: &str,
        value: &Secret,
        old: Option<&SecretRow>,
        text: &str,
    ) -> Result<bool, Refused> {
        let bytes = value.expose().as_bytes();
        let is_stored = |row: &SecretRow| {
            // One that does not decrypt is another value.
            let plain = self.cipher.open(&row.sealed(), &scope.place(key));
            plain.is_ok_and(|plain| is_same(&plain, bytes))
        };
        let unchanged = old.is_some_and(is_stored);
        if unchanged && old.is_some_and(|row| self.cipher.is_current(&row.sealed())) {
            return Ok(false);
        }
        let sealed = self.cipher.seal(bytes, &scope.place(key));
        let sealed = sealed.map_err(|error| Refused::Said(Error::internal(text, error)))?;
        store::upsert(tx, scope, key, &sealed, timestamp(&self.clock)).await?;
        Ok(!unchanged)
    }

    /// A workspace that booted while a global secret was written may have read the
    /// old value without being there for the request.
    async fn catch_up(&self, key: &str, began: DateTime<Utc>) {
        let now = timestamp(&self.clock);
        let missed = store::restart::request_missed(&self.db, key, now, began - CLOCK_SLACK);
        if let Err(error) = missed.await {
            // The change itself is made; telling the client otherwise would be wrong.
            tracing::error!(
                %error,
                secret.key = key,
                "workspaces that booted during the change may still have the old value"
            );
        }
    }
}

fn no_secret() -> Error {
    Error::not_found("secret not found")
}

fn too_many() -> Error {
    Error::invalid("invalid request body").with(
        "detail",
        format!("key: there are {MAX_SECRETS} secrets already; delete one first"),
    )
}
