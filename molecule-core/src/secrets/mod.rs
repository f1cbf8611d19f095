//! Secrets of workspaces: encrypted at rest, decrypted only for a boot.

mod cipher;
mod fingerprint;
pub(crate) mod routes;
mod store;

use std::collections::BTreeMap;

use molecule_hooks::{EnvError, Secret, check_env_name};
use uuid::Uuid;

pub(crate) use cipher::{Cipher, CipherError, Sealed, aad};
pub use cipher::{EncryptionKey, KeyError};
pub(crate) use fingerprint::{FingerprintError, Fingerprints};

use crate::error::{Error, Result};
use crate::redact::Redactor;
use crate::store::{Db, Tx, timestamp};

/// Longest value of a secret, in bytes.
pub(crate) const MAX_SECRET_BYTES: usize = molecule_hooks::MAX_ENV_VALUE_BYTES;
/// Most secrets a create payload may carry.
pub(crate) const MAX_SECRETS: usize = 256;

/// Written by the server itself from the model's name. Masking "anthropic" or
/// "openrouter" everywhere would hide no secret and garble the log.
const NO_SECRETS: [&str; 2] = ["MODEL_PROVIDER", "LLM_PROVIDER"];

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
        self.teach(key, value.expose());
        let place = aad("workspace_secrets", &workspace.to_string(), key);
        let sealed = self
            .cipher
            .seal(value.expose().as_bytes(), &place)
            .map_err(|error| Error::internal(format!("failed to encrypt secret: {key}"), error))?;
        store::upsert(tx, workspace, key, &sealed, timestamp(&self.clock))
            .await
            .map_err(|error| Error::from(error).says(&format!("failed to save secret: {key}")))
    }

    /// Everything a workspace boots with. Fails rather than leave one out.
    pub(crate) async fn bundle(&self, workspace: Uuid) -> Result<Bundle, BundleError> {
        let mut bundle = Bundle::default();
        for row in store::global(&self.db).await? {
            let place = aad("global_secrets", "", &row.key);
            let value = self.open(&row, &place).map_err(BundleError::Global)?;
            bundle.global.insert(row.key, value);
        }
        for row in store::of_workspace(&self.db, workspace).await? {
            let place = aad("workspace_secrets", &workspace.to_string(), &row.key);
            let value = self.open(&row, &place).map_err(BundleError::Workspace)?;
            bundle.workspace.insert(row.key, value);
        }
        Ok(bundle)
    }

    fn open(&self, row: &store::SecretRow, place: &[u8]) -> Result<Secret, CipherError> {
        let sealed = Sealed {
            bytes: row.encrypted_value.clone(),
            version: row.encryption_version,
        };
        let text = String::from_utf8(self.cipher.open(&sealed, place)?)
            .map_err(|_| CipherError::Corrupt)?;
        self.teach(&row.key, &text);
        Ok(Secret::new(text))
    }

    fn teach(&self, key: &str, value: &str) {
        if !NO_SECRETS.contains(&key) {
            self.redactor.learn(value);
        }
    }

    /// Masks a secret that is not stored, as long as there is room.
    pub(crate) fn teach_passing(&self, key: &str, value: &Secret) {
        if !NO_SECRETS.contains(&key) {
            self.redactor.learn_passing(value.expose());
        }
    }

    /// Teaches the redactor every stored secret; called once at start-up.
    pub(crate) async fn teach_redactor(&self) -> Result<(), sqlx::Error> {
        for row in store::all_of_workspaces(&self.db).await? {
            let place = aad("workspace_secrets", &row.workspace_id.to_string(), &row.key);
            // A value that does not decrypt cannot leak either.
            let _ = self.open(&row.secret(), &place);
        }
        for row in store::global(&self.db).await? {
            let _ = self.open(&row, &aad("global_secrets", "", &row.key));
        }
        Ok(())
    }
}

/// What a key and a value must look like to become an environment variable.
///
/// # Errors
/// One sentence, naming the key and never the value.
pub(crate) fn check_secret(key: &str, value: &str) -> Result<(), String> {
    match check_env_name(key) {
        Err(EnvError::InvalidName(shown)) => {
            return Err(format!(
                "secrets: {shown:?} is not a valid environment variable name"
            ));
        }
        Err(error) => return Err(format!("secrets: {error}")),
        Ok(()) if key == "PATH" || key.starts_with("LD_") => {
            return Err(format!("secrets: {key} may not be set"));
        }
        Ok(()) => {}
    }
    if value.contains('\0') {
        return Err(format!("secrets: the value of {key} contains a NUL byte"));
    }
    if value.len() > MAX_SECRET_BYTES {
        return Err(format!(
            "secrets: the value of {key} is longer than {MAX_SECRET_BYTES} bytes"
        ));
    }
    Ok(())
}
