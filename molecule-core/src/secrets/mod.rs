//! Secrets of workspaces and of all of them: encrypted at rest, decrypted for a
//! boot and for the agent itself.

mod change;
mod check;
mod cipher;
mod fingerprint;
mod key;
mod language_model;
mod model;
mod rotation;
pub(crate) mod routes;
mod store;

use std::collections::BTreeMap;

use molecule_hooks::Secret;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) use check::{check_model, check_secret};
pub(crate) use cipher::{Cipher, CipherError, Protection, Sealed, aad};
pub(crate) use fingerprint::{FingerprintError, Fingerprints};
pub use key::{EncryptionKey, KeyError};
pub(crate) use language_model::model_secrets;
pub(crate) use model::{Scope, SecretItem};
pub(crate) use rotation::{Rotated, Rotation};

use crate::error::{Error, Result};
use crate::redact::Redactor;
use crate::store::{Db, Tx, timestamp};
use model::SecretRow;

/// Longest value of a secret, in bytes.
pub(crate) const MAX_SECRET_BYTES: usize = molecule_hooks::MAX_ENV_VALUE_BYTES;
/// Most secrets a workspace may have, and most global ones.
pub(crate) const MAX_SECRETS: usize = 256;

/// The model an agent works with.
const MODEL_KEY: &str = "MODEL_PROVIDER";
/// Who serves that model, where its name says so.
const PROVIDER_KEY: &str = "LLM_PROVIDER";

/// Written by the server itself from the model's name. Masking "anthropic" or
/// "openrouter" everywhere would hide no secret and garble the log.
const NO_SECRETS: [&str; 2] = [MODEL_KEY, PROVIDER_KEY];

/// The room's service.
#[derive(Clone)]
pub(crate) struct Secrets {
    db: Db,
    cipher: Cipher,
    redactor: Redactor,
    clock: molecule_hooks::Clock,
}

/// The secrets a workspace boots with, by scope.
#[derive(Default)]
pub(crate) struct Bundle {
    pub(crate) global: BTreeMap<String, Secret>,
    pub(crate) workspace: BTreeMap<String, Secret>,
}

/// Why a bundle could not be read. `Display` is the documented text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("failed to decrypt global secret")]
    Global(#[source] CipherError),
    #[error("failed to decrypt workspace secret")]
    Workspace(#[source] CipherError),
    #[error("secrets could not be read")]
    Store(#[from] sqlx::Error),
}

impl Secrets {
    pub(crate) fn new(
        db: Db,
        cipher: Cipher,
        redactor: Redactor,
        clock: molecule_hooks::Clock,
    ) -> Self {
        Self {
            db,
            cipher,
            redactor,
            clock,
        }
    }

    /// The cipher, for columns that other rooms keep encrypted.
    pub(crate) fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    /// Writes one secret of a workspace inside the caller's transaction.
    ///
    /// # Errors
    /// `failed to encrypt secret: <KEY>` and `failed to save secret: <KEY>`.
    pub(crate) async fn put(
        &self,
        tx: &mut Tx,
        workspace: Uuid,
        key: &str,
        value: &Secret,
    ) -> Result<()> {
        let scope = Scope::Workspace(workspace);
        self.teach(scope, key, value.expose());
        let sealed = self
            .cipher
            .seal(value.expose().as_bytes(), &scope.place(key))
            .map_err(|error| Error::internal(format!("failed to encrypt secret: {key}"), error))?;
        store::upsert(tx, scope, key, &sealed, timestamp(&self.clock))
            .await
            .map_err(|error| Error::from(error).says(&format!("failed to save secret: {key}")))
    }

    /// Everything a workspace boots with. Fails rather than leave one out.
    pub(crate) async fn bundle(&self, workspace: Uuid) -> Result<Bundle, BundleError> {
        let mut bundle = Bundle::default();
        for row in store::global(&self.db).await? {
            let value = self.open(Scope::Global, &row);
            let value = value.map_err(BundleError::Global)?;
            bundle.global.insert(row.key, value);
        }
        for row in store::of_workspace(&self.db, workspace).await? {
            let value = self.open(Scope::Workspace(workspace), &row);
            let value = value.map_err(BundleError::Workspace)?;
            bundle.workspace.insert(row.key, value);
        }
        Ok(bundle)
    }

    /// What the agent of a workspace gets when it asks: global secrets, and its
    /// own over them.
    ///
    /// # Errors
    /// The documented 500 with `failed_keys` when one does not decrypt.
    pub(crate) async fn values(&self, workspace: Uuid) -> Result<BTreeMap<String, Secret>> {
        let scope = Scope::Workspace(workspace);
        let global = store::global(&self.db).await?;
        let own = store::of_workspace(&self.db, workspace).await?;
        let rows = (global.iter().map(|row| (Scope::Global, row)))
            .chain(own.iter().map(|row| (scope, row)));
        let (mut values, mut failed, mut cause) = (BTreeMap::new(), Vec::<Value>::new(), None);
        for (scope, row) in rows {
            match self.open(scope, row) {
                Ok(value) => drop(values.insert(row.key.clone(), value)),
                Err(error) => {
                    let prefix = match scope {
                        Scope::Global => "global",
                        Scope::Workspace(_) => "workspace",
                    };
                    failed.push(json!(format!("{prefix}:{}", row.key)));
                    cause = cause.or(Some(error));
                }
            }
        }
        match cause {
            None => Ok(values),
            Some(cause) => Err(Error::internal(
                "one or more secrets failed to decrypt; refusing to return partial bundle",
                cause,
            )
            .with("failed_keys", failed)),
        }
    }

    /// The global secrets, without values.
    pub(crate) async fn list_global(&self) -> Result<Vec<SecretItem>> {
        let rows = store::list(&self.db, Scope::Global).await?;
        Ok(rows.into_iter().map(|row| row.shown("global")).collect())
    }

    /// A workspace's own secrets, then the global ones that it does not override;
    /// all without values.
    pub(crate) async fn list(&self, workspace: Uuid) -> Result<Vec<SecretItem>> {
        let own = store::list(&self.db, Scope::Workspace(workspace)).await?;
        let mut global = store::list(&self.db, Scope::Global).await?;
        global.retain(|row| own.binary_search_by(|mine| mine.key.cmp(&row.key)).is_err());
        let own = own.into_iter().map(|row| row.shown("workspace"));
        Ok(own
            .chain(global.into_iter().map(|row| row.shown("global")))
            .collect())
    }

    /// The workspaces that a change of this key would restart.
    pub(crate) async fn dependents(&self, scope: Scope, key: &str) -> Result<Vec<Uuid>> {
        match key.contains('\0') {
            // No database can hold such a key, and PostgreSQL will not look for it.
            true => Ok(Vec::new()),
            false => Ok(store::restart::dependents(&self.db, scope, key).await?),
        }
    }

    fn open(&self, scope: Scope, row: &SecretRow) -> Result<Secret, CipherError> {
        let plain = self.cipher.open(&row.sealed(), &scope.place(&row.key))?;
        let text = String::from_utf8(plain).map_err(|_| CipherError::Corrupt)?;
        self.teach(scope, &row.key, &text);
        Ok(Secret::new(text))
    }

    fn teach(&self, scope: Scope, key: &str, value: &str) {
        match scope {
            _ if NO_SECRETS.contains(&key) => {}
            Scope::Global => self.redactor.learn(value),
            Scope::Workspace(id) => self.redactor.learn_of(id, value),
        }
    }

    /// Masks a secret that is not stored, as long as there is room.
    pub(crate) fn teach_passing(&self, key: &str, value: &Secret) {
        if !NO_SECRETS.contains(&key) {
            self.redactor.learn_passing(value.expose());
        }
    }

    /// Teaches the redactor what a workspace may know, also what another server
    /// stored since. A value that does not decrypt is left out, as at start-up.
    pub(crate) async fn teach_redactor_of(&self, workspace: Uuid) -> Result<(), sqlx::Error> {
        for row in store::of_workspace(&self.db, workspace).await? {
            let _ = self.open(Scope::Workspace(workspace), &row);
        }
        for row in store::global(&self.db).await? {
            let _ = self.open(Scope::Global, &row);
        }
        Ok(())
    }

    /// Teaches the redactor every stored secret; called once at start-up.
    pub(crate) async fn teach_redactor(&self) -> Result<(), sqlx::Error> {
        let mut unreadable = 0_usize;
        for row in store::all_of_workspaces(&self.db).await? {
            let scope = Scope::Workspace(row.workspace_id);
            // A value that does not decrypt cannot leak either.
            unreadable += usize::from(self.open(scope, &row.into_secret()).is_err());
        }
        for row in store::global(&self.db).await? {
            unreadable += usize::from(self.open(Scope::Global, &row).is_err());
        }
        if unreadable > 0 {
            tracing::error!(
                unreadable,
                "stored secrets do not decrypt with the configured keys; `secrets rotate --dry-run` \
                 lists them, and secrets.previous_encryption_keys takes the keys that are missing"
            );
        }
        Ok(())
    }
}
