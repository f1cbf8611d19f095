mod attribution;

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};

use crate::error::HookError;
use crate::token_provider::Token;

/// The longest value a variable may have, in bytes. Linux refuses to start a
/// program with a longer one (its limit is 128 KiB for `NAME=value`).
pub const MAX_ENV_VALUE_BYTES: usize = 64 * 1024;

/// The longest name of a variable, in bytes.
pub const MAX_ENV_NAME_BYTES: usize = 128;

/// Names that belong to the platform. No secret and no hook may write them:
/// the first five tell an agent who and where it is, the others are credentials
/// of the server itself.
pub const RESERVED_ENV_NAMES: &[&str] = &[
    "WORKSPACE_ID",
    "WORKSPACE_CONFIG_PATH",
    "PLATFORM_URL",
    "MOLECULE_URL",
    "TIER",
    "ADMIN_TOKEN",
    "MOLECULE_ADMIN_TOKEN",
    "CP_ADMIN_API_TOKEN",
    "CP_ADMIN_TOKEN",
];

/// The environment that the next boot of a workspace will get, ordered by name.
///
/// A mutator may read, add, overwrite and remove; it sees what earlier mutators
/// did. The map remembers who wrote each variable and whether it is secret.
/// Values are absent from `Debug`.
///
/// ```
/// use molecule_hooks::EnvMap;
/// let mut env = EnvMap::new();
/// env.set("HTTP_PROXY", "http://proxy:3128")?;
/// env.set_secret("API_KEY", "k-123")?;
/// assert_eq!(env.get("API_KEY"), Some("k-123"));
/// assert!(env.is_secret("API_KEY"));
/// assert!(env.set("WORKSPACE_ID", "mine").is_err());
/// # Ok::<(), molecule_hooks::EnvError>(())
/// ```
#[derive(Clone, Default)]
pub struct EnvMap {
    entries: BTreeMap<String, Entry>,
    /// What happened to a name up to its last removal, for names that were
    /// removed at least once; some are set again. Each ends with a removal.
    removed: BTreeMap<String, Vec<EnvStep>>,
    writer: EnvSource,
    /// Tells the contract kit what was refused, also when the hook ignored it.
    #[cfg(feature = "testing")]
    refused: Option<crate::testing::Refusals>,
}

#[derive(Clone)]
struct Entry {
    value: String,
    secret: bool,
    expires_at: Option<DateTime<Utc>>,
    /// Since the last removal, oldest first; never empty.
    writers: Vec<EnvSource>,
}

/// Who wrote a variable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EnvSource {
    /// The server itself, or a test.
    #[default]
    Platform,
    /// A secret shared by all workspaces.
    GlobalSecret,
    /// A secret of this workspace.
    WorkspaceSecret,
    /// Derived from the workspace's name, role, model and parent.
    Identity,
    /// A hook.
    Hook {
        /// The hook's registered name.
        name: String,
        /// Version of the hook crate; empty when registered by hand.
        version: String,
    },
}

impl fmt::Display for EnvSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform => f.write_str("platform"),
            Self::GlobalSecret => f.write_str("global secret"),
            Self::WorkspaceSecret => f.write_str("workspace secret"),
            Self::Identity => f.write_str("identity"),
            Self::Hook { name, version } if version.is_empty() => write!(f, "hook {name}"),
            Self::Hook { name, version } => write!(f, "hook {name} {version}"),
        }
    }
}

/// One step in the life of a variable: see [`EnvMap::history`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvStep {
    /// Who did it.
    pub source: EnvSource,
    /// False when it was set, true when it was removed.
    pub removed: bool,
}

impl EnvStep {
    fn set(source: EnvSource) -> Self {
        let removed = false;
        Self { source, removed }
    }

    fn removed(source: EnvSource) -> Self {
        let removed = true;
        Self { source, removed }
    }
}

/// Why a variable was refused. The value is never part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`, or longer than [`MAX_ENV_NAME_BYTES`].
    #[error("{0:?} is not a valid environment variable name")]
    InvalidName(String),
    /// One of [`RESERVED_ENV_NAMES`].
    #[error("{0} is reserved for the platform")]
    Reserved(String),
    /// The value holds a NUL byte, which no process environment can carry.
    #[error("the value of {0} contains a NUL byte")]
    NulByte(String),
    /// The value is longer than [`MAX_ENV_VALUE_BYTES`].
    #[error("the value of {0} is longer than {MAX_ENV_VALUE_BYTES} bytes")]
    TooLong(String),
}

impl From<EnvError> for HookError {
    fn from(error: EnvError) -> Self {
        HookError::permanent(error.to_string())
    }
}

impl EnvMap {
    /// An empty map whose writer is the platform.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|entry| entry.value.as_str())
    }

    /// True when `name` is set, even to the empty string.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Sets a variable, overwriting any earlier value. An overwritten secret
    /// stays secret.
    ///
    /// # Errors
    /// [`EnvError`] when the name is invalid or reserved, or the value cannot be
    /// put into a process environment; the map is then unchanged.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<(), EnvError> {
        self.write(name, value.into(), false, None)
    }

    /// Sets a variable that must not be shown: it is masked in logs and plans.
    ///
    /// # Errors
    /// As [`set`](EnvMap::set).
    pub fn set_secret(&mut self, name: &str, value: impl Into<String>) -> Result<(), EnvError> {
        self.write(name, value.into(), true, None)
    }

    /// As [`set_secret`](EnvMap::set_secret) for a value that stops working at
    /// `expires_at`: plans show that time.
    ///
    /// # Errors
    /// As [`set`](EnvMap::set).
    pub fn set_secret_until(
        &mut self,
        name: &str,
        value: impl Into<String>,
        expires_at: DateTime<Utc>,
    ) -> Result<(), EnvError> {
        self.write(name, value.into(), true, Some(expires_at))
    }

    /// Sets a variable to a token, as a secret that ends when the token does.
    ///
    /// ```
    /// use molecule_hooks::{Clock, EnvMap, Token};
    /// let expires_at = Clock::system().now() + std::time::Duration::from_secs(3600);
    /// let mut env = EnvMap::new();
    /// env.set_token("GITHUB_TOKEN", &Token::new("t-1", expires_at))?;
    /// assert!(env.is_secret("GITHUB_TOKEN"));
    /// assert_eq!(env.expires_at("GITHUB_TOKEN"), Some(expires_at));
    /// # Ok::<(), molecule_hooks::EnvError>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](EnvMap::set).
    pub fn set_token(&mut self, name: &str, token: &Token) -> Result<(), EnvError> {
        self.set_secret_until(name, token.secret.expose(), token.expires_at)
    }

    /// Removes a variable and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let Entry {
            value, mut writers, ..
        } = self.entries.remove(name)?;
        // What one writer sets and removes again leaves no trace of its own.
        if writers.last() == Some(&self.writer) {
            writers.pop();
        }
        if !writers.is_empty() {
            let steps = self.removed.entry(name.to_owned()).or_default();
            steps.extend(writers.into_iter().map(EnvStep::set));
            steps.push(EnvStep::removed(self.writer.clone()));
        }
        Some(value)
    }

    /// True when the variable was written as a secret.
    pub fn is_secret(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.secret)
    }

    /// When the value of `name` stops working, if whoever wrote it said so.
    pub fn expires_at(&self, name: &str) -> Option<DateTime<Utc>> {
        self.entries.get(name)?.expires_at
    }

    /// Everyone who wrote `name` since it was last removed, first to last; the
    /// last one won. Empty when it is not set.
    pub fn provenance(&self, name: &str) -> &[EnvSource] {
        self.entries
            .get(name)
            .map_or(&[], |entry| entry.writers.as_slice())
    }

    /// Everything that happened to `name`, first to last, removals included. The
    /// last step decided. Empty for a name that was never set.
    pub fn history(&self, name: &str) -> Vec<EnvStep> {
        let earlier = self.removed.get(name).into_iter().flatten().cloned();
        let since = self.provenance(name).iter().cloned().map(EnvStep::set);
        earlier.chain(since).collect()
    }

    /// Names that were set once and are not any more, in order.
    pub fn removed_names(&self) -> impl Iterator<Item = &str> {
        self.removed
            .keys()
            .map(String::as_str)
            .filter(|name| !self.contains(name))
    }

    /// Names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.value.as_str()))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// How many variables are set.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names that differ between `self` and `later`: added, changed or removed.
    pub fn changed_names<'a>(&'a self, later: &'a EnvMap) -> Vec<&'a str> {
        let mut names: Vec<&str> = later
            .iter()
            .filter(|(name, value)| self.get(name) != Some(value))
            .map(|(name, _)| name)
            .chain(self.names().filter(|name| !later.contains(name)))
            .collect();
        names.sort_unstable();
        names
    }

    /// Says who writes from now on. The server calls this; hooks need not, and a
    /// hook that does is still noted as the writer of what it changed.
    pub fn set_writer(&mut self, writer: EnvSource) {
        self.writer = writer;
    }

    pub(crate) fn writer(&self) -> &EnvSource {
        &self.writer
    }

    /// From now on every refused write of this map and its clones is noted there.
    #[cfg(feature = "testing")]
    pub(crate) fn note_refusals(&mut self, refused: crate::testing::Refusals) {
        self.refused = Some(refused);
    }

    fn write(
        &mut self,
        name: &str,
        value: String,
        secret: bool,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<(), EnvError> {
        let checked = check(name, &value);
        #[cfg(feature = "testing")]
        if let (Some(refused), Err(error)) = (&self.refused, &checked) {
            refused.note(error.clone());
        }
        checked?;
        let writer = self.writer.clone();
        let entry = self.entries.entry(name.to_owned()).or_insert(Entry {
            value: String::new(),
            secret: false,
            expires_at: None,
            writers: Vec::new(),
        });
        entry.value = value;
        entry.expires_at = expires_at;
        entry.secret |= secret;
        if entry.writers.last() != Some(&writer) {
            entry.writers.push(writer);
        }
        Ok(())
    }
}

fn check(name: &str, value: &str) -> Result<(), EnvError> {
    check_env_name(name)?;
    if value.contains('\0') {
        return Err(EnvError::NulByte(name.to_owned()));
    }
    if value.len() > MAX_ENV_VALUE_BYTES {
        return Err(EnvError::TooLong(name.to_owned()));
    }
    Ok(())
}

/// Checks a variable name against the rules [`EnvMap::set`] enforces.
///
/// # Errors
/// [`EnvError::InvalidName`] or [`EnvError::Reserved`].
pub fn check_env_name(name: &str) -> Result<(), EnvError> {
    let mut bytes = name.bytes();
    let head = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let tail = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !head || !tail || name.len() > MAX_ENV_NAME_BYTES {
        let shown: String = name.chars().take(40).collect();
        return Err(EnvError::InvalidName(shown));
    }
    if RESERVED_ENV_NAMES.contains(&name) {
        return Err(EnvError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// Checks a variable name that comes from outside: from a file, a vault or the
/// configuration, and not from the code of a hook. Besides what [`check_env_name`]
/// refuses, these are refused: `PATH` and `LD_…`, which decide which programs and
/// libraries run, and `PARENT_ID`, which decides whose child a workspace is.
///
/// # Errors
/// [`EnvError::InvalidName`] or [`EnvError::Reserved`].
///
/// ```
/// use molecule_hooks::check_foreign_env_name;
/// assert!(check_foreign_env_name("API_KEY").is_ok());
/// assert!(check_foreign_env_name("LD_PRELOAD").is_err());
/// ```
pub fn check_foreign_env_name(name: &str) -> Result<(), EnvError> {
    check_env_name(name)?;
    match name == "PATH" || name == "PARENT_ID" || name.starts_with("LD_") {
        true => Err(EnvError::Reserved(name.to_owned())),
        false => Ok(()),
    }
}

/// Names and writers only; values stay hidden.
impl fmt::Debug for EnvMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.entries.iter().map(|(name, entry)| {
                let writer = entry.writers.last().map(ToString::to_string);
                (name, writer.unwrap_or_default())
            }))
            .finish()
    }
}

#[cfg(test)]
mod tests;
