//! A stand-in for HashiCorp Vault: a KV v2 engine, logins by token, AppRole and
//! Kubernetes, and leases that end and are renewed.
//!
//! ```
//! use std::time::Duration;
//! use molecule_hooks::testing::vault::VaultStandIn;
//! use serde_json::json;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let vault = VaultStandIn::start().await?;
//! vault.put("molecule/common", json!({ "API_KEY": "k-123456" }));
//! vault.add_token("hvs.given", Some(Duration::from_secs(600)));
//! vault.set_approle("role-id", "secret-id");
//! // … let the hook work against vault.url() …
//! assert_eq!(vault.logins(), 0);
//! # Ok(()) }
//! ```

mod answer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{Stage, stand_in};
use crate::clock::Clock;

/// A running Vault. Dropping it stops it.
#[derive(Debug)]
pub struct VaultStandIn(Stage<Vault>);

#[derive(Debug)]
struct Vault {
    clock: Clock,
    namespace: Option<String>,
    sealed: bool,
    secrets: BTreeMap<String, Entry>,
    forbidden: BTreeSet<String>,
    tokens: BTreeMap<String, Lease>,
    approle: Option<(String, String)>,
    kubernetes: Option<(String, String)>,
    life: Duration,
    longest_life: Option<Duration>,
    renewable: bool,
    default_policy: bool,
    logins: u64,
    renewals: u64,
}

#[derive(Debug)]
struct Entry {
    /// None once the newest version was deleted.
    data: Option<Value>,
    version: u64,
}

#[derive(Debug, Clone)]
struct Lease {
    /// None for a token that never ends, such as the root token.
    ends_at: Option<DateTime<Utc>>,
    life: Duration,
    /// No renewal goes beyond.
    latest: Option<DateTime<Utc>>,
    renewable: bool,
}

stand_in!(VaultStandIn);

impl VaultStandIn {
    /// Starts an empty one, by the wall clock. Its KV v2 engine is mounted at
    /// `secret`, logins give renewable tokens for an hour.
    ///
    /// # Errors
    /// The error of the operating system when no port can be had.
    pub async fn start() -> io::Result<Self> {
        Self::start_with_clock(Clock::system()).await
    }

    /// As [`start`](VaultStandIn::start), by another clock.
    ///
    /// # Errors
    /// As [`start`](VaultStandIn::start).
    pub async fn start_with_clock(clock: Clock) -> io::Result<Self> {
        let vault = Vault {
            clock,
            namespace: None,
            sealed: false,
            secrets: BTreeMap::new(),
            forbidden: BTreeSet::new(),
            tokens: BTreeMap::new(),
            approle: None,
            kubernetes: None,
            life: Duration::from_secs(3600),
            longest_life: None,
            renewable: true,
            default_policy: true,
            logins: 0,
            renewals: 0,
        };
        Ok(Self(Stage::start(vault, answer::answer).await?))
    }

    /// Writes the next version of a secret; `data` is an object.
    pub fn put(&self, path: &str, data: Value) {
        let mut vault = self.0.lock();
        let version = vault.secrets.get(path).map_or(0, |entry| entry.version) + 1;
        let data = Some(data);
        vault
            .secrets
            .insert(path.to_owned(), Entry { data, version });
    }

    /// Deletes the newest version of a secret, which leaves its metadata.
    pub fn delete(&self, path: &str) {
        if let Some(entry) = self.0.lock().secrets.get_mut(path) {
            entry.data = None;
        }
    }

    /// Lets no policy read this path.
    pub fn forbid(&self, path: &str) {
        self.0.lock().forbidden.insert(path.to_owned());
    }

    /// Knows this token. It is renewable and ends after `life`, or never.
    pub fn add_token(&self, token: &str, life: Option<Duration>) {
        let mut vault = self.0.lock();
        let mut lease = vault.lease(life.unwrap_or_default());
        lease.renewable = life.is_some();
        if life.is_none() {
            lease.ends_at = None;
        }
        vault.tokens.insert(token.to_owned(), lease);
    }

    /// Takes logins at `auth/approle` with these ids.
    pub fn set_approle(&self, role_id: &str, secret_id: &str) {
        self.0.lock().approle = Some((role_id.to_owned(), secret_id.to_owned()));
    }

    /// Takes logins at `auth/kubernetes` for this role with this service account
    /// token.
    pub fn set_kubernetes(&self, role: &str, jwt: &str) {
        self.0.lock().kubernetes = Some((role.to_owned(), jwt.to_owned()));
    }

    /// How long new and renewed leases last, and how long in all.
    pub fn set_life(&self, life: Duration, longest: Option<Duration>) {
        let mut vault = self.0.lock();
        vault.life = life;
        vault.longest_life = longest;
    }

    /// Whether the tokens of logins can be renewed.
    pub fn set_renewable(&self, renewable: bool) {
        self.0.lock().renewable = renewable;
    }

    /// Takes the policy `default` from every token: they may neither look themselves
    /// up nor be renewed, and Vault says "permission denied" as for any other path.
    pub fn set_no_default_policy(&self) {
        self.0.lock().default_policy = false;
    }

    /// Answers in this namespace only.
    pub fn require_namespace(&self, namespace: &str) {
        self.0.lock().namespace = Some(namespace.to_owned());
    }

    /// Seals or unseals it. A sealed Vault answers everything with 503.
    pub fn set_sealed(&self, sealed: bool) {
        self.0.lock().sealed = sealed;
    }

    /// Ends every token there is.
    pub fn revoke_tokens(&self) {
        self.0.lock().tokens.clear();
    }

    /// Every token it knows, ended ones included.
    pub fn tokens(&self) -> Vec<String> {
        self.0.lock().tokens.keys().cloned().collect()
    }

    /// How many logins it granted.
    pub fn logins(&self) -> u64 {
        self.0.lock().logins
    }

    /// How many renewals it granted.
    pub fn renewals(&self) -> u64 {
        self.0.lock().renewals
    }
}

impl Vault {
    fn lease(&self, life: Duration) -> Lease {
        let now = self.clock.now();
        let after = |life: Duration| {
            let life = TimeDelta::from_std(life).ok()?;
            now.checked_add_signed(life)
        };
        Lease {
            ends_at: after(life),
            life,
            latest: self.longest_life.and_then(after),
            renewable: self.renewable,
        }
    }

    /// Milliseconds left of a lease; 0 for one without an end.
    fn left_millis(&self, lease: &Lease) -> i64 {
        lease
            .ends_at
            .map_or(0, |end| (end - self.clock.now()).num_milliseconds().max(0))
    }
}
