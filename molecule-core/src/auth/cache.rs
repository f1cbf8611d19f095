//! Tokens that are known to be live, so that a request costs no query.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::sync::Cache;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use super::principal::{OrgToken, Principal};
use super::token::TokenHash;
use crate::store::Notice;

/// Tokens remembered at most: those of a hundred thousand workspaces, with room for
/// entries that are about to age out. At the limit the memory starts over, and each
/// heartbeat would cost a query.
const ENTRIES: u64 = 250_000;
/// Revocations empty the cache at once, on other servers by their notice. This
/// bounds what a server may miss that died before it could send one.
const LIFETIME: Duration = Duration::from_secs(120);
/// How long a token that was found to be live is still counted as itself by a limit
/// of requests. It opens nothing.
const COUNTED_FOR: Duration = Duration::from_secs(60 * 60);
/// `last_used_at` is written at most this often per token.
const NOTE_EVERY_SECS: i64 = 60;

/// A token that is valid.
#[derive(Debug)]
pub(super) struct LiveToken {
    pub(super) token_id: Uuid,
    pub(super) holder: Holder,
    /// Unix time of the last use that was, or is about to be, written down.
    noted_at: AtomicI64,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    Workspace(Uuid),
    Org(OrgToken),
}

impl LiveToken {
    pub(super) fn new(token_id: Uuid, holder: Holder, last_used: Option<DateTime<Utc>>) -> Self {
        let noted_at = last_used.map_or(i64::MIN, |at| at.timestamp());
        Self {
            token_id,
            holder,
            noted_at: AtomicI64::new(noted_at),
        }
    }

    /// True when this use should be written down; of several at once for one.
    pub(super) fn is_worth_noting(&self, now: DateTime<Utc>) -> bool {
        let (now, noted_at) = (now.timestamp(), self.noted_at.load(Ordering::Relaxed));
        now.saturating_sub(noted_at) > NOTE_EVERY_SECS
            && self
                .noted_at
                .compare_exchange(noted_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    pub(super) fn principal(&self) -> Principal {
        match &self.holder {
            Holder::Workspace(id) => Principal::Workspace(*id),
            Holder::Org(token) => Principal::Org(token.clone()),
        }
    }

    /// Under which id it is forgotten: a workspace's tokens go together, an org
    /// token alone.
    fn owner(&self) -> Uuid {
        match &self.holder {
            Holder::Workspace(id) => *id,
            Holder::Org(token) => token.id,
        }
    }
}

/// The tokens in memory.
pub(super) struct TokenCache {
    live: Cache<TokenHash, Arc<LiveToken>>,
    /// Longer than `live`, and only for limits of requests: whoever shares an
    /// address with others must not be refused for them before anybody has looked
    /// the token up again.
    counted: Cache<TokenHash, ()>,
    owners: Mutex<Owners>,
}

#[derive(Default)]
struct Owners {
    /// What to drop when an owner's tokens are revoked.
    hashes: HashMap<Uuid, Vec<TokenHash>>,
    /// Counts revocations, so that a look-up that began before one does not fill
    /// the cache after it.
    revocations: u64,
}

impl TokenCache {
    pub(super) fn new() -> Self {
        Self {
            live: Cache::builder()
                .max_capacity(ENTRIES)
                .time_to_live(LIFETIME)
                .build(),
            counted: Cache::builder()
                .max_capacity(ENTRIES)
                .time_to_live(COUNTED_FOR)
                .build(),
            owners: Mutex::default(),
        }
    }

    pub(super) fn get(&self, hash: &TokenHash) -> Option<Arc<LiveToken>> {
        self.live.get(hash)
    }

    /// True for a token that was live not long ago and was not revoked since, as far
    /// as this server knows. Says who is counted, never who is let in.
    pub(super) fn is_counted(&self, hash: &TokenHash) -> bool {
        self.live.contains_key(hash) || self.counted.contains_key(hash)
    }

    /// The database knows no such live token.
    pub(super) fn is_unknown(&self, hash: &TokenHash) {
        self.counted.invalidate(hash);
    }

    /// Ask before reading a row, and hand it to [`insert`](Self::insert).
    pub(super) fn revocations(&self) -> u64 {
        self.owners().revocations
    }

    /// Remembers a token, unless something was revoked since its row was read.
    pub(super) fn insert(&self, hash: TokenHash, token: Arc<LiveToken>, revocations: u64) {
        let mut owners = self.owners();
        if owners.revocations != revocations {
            return;
        }
        if owners.hashes.len() as u64 >= ENTRIES {
            // The index keeps what the cache let go of; starting over is rare and
            // costs one query per token.
            for hash in owners.hashes.drain().flat_map(|(_, hashes)| hashes) {
                self.live.invalidate(&hash);
                self.counted.invalidate(&hash);
            }
        }
        let known = owners.hashes.entry(token.owner()).or_default();
        if !known.contains(&hash) {
            known.retain(|hash| self.is_counted(hash));
            known.push(hash);
        }
        self.counted.insert(hash, ());
        self.live.insert(hash, token);
    }

    /// Drops the tokens of a workspace, or one org token.
    pub(super) fn forget(&self, owner: Uuid) {
        let mut owners = self.owners();
        owners.revocations += 1;
        for hash in owners.hashes.remove(&owner).unwrap_or_default() {
            self.live.invalidate(&hash);
            self.counted.invalidate(&hash);
        }
    }

    /// Drops everything that opens a door. Who is counted stays: a notice that was
    /// perhaps missed is no reason to refuse everybody behind a busy address.
    pub(super) fn clear(&self) {
        let mut owners = self.owners();
        owners.revocations += 1;
        // One by one: `invalidate_all` goes by time stamps, which may be equal.
        for hash in owners.hashes.values().flatten() {
            self.live.invalidate(hash);
        }
    }

    /// Does what another server's word asks for; what may have been missed counts
    /// as everything.
    pub(super) fn hear(&self, notice: Result<Notice, RecvError>) {
        match notice.map(|notice| match notice {
            Notice::Message(owner) => Uuid::try_parse(&owner).ok(),
            Notice::Gap => None,
        }) {
            Ok(Some(owner)) => self.forget(owner),
            Ok(None) | Err(_) => self.clear(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(owner: Uuid) -> Arc<LiveToken> {
        Arc::new(LiveToken::new(
            Uuid::new_v4(),
            Holder::Workspace(owner),
            None,
        ))
    }

    fn filled() -> (TokenCache, [(Uuid, TokenHash); 2]) {
        let cache = TokenCache::new();
        let entries = ["one", "two"].map(|text| (Uuid::new_v4(), TokenHash::of(text)));
        for (owner, hash) in entries {
            cache.insert(hash, token(owner), cache.revocations());
        }
        (cache, entries)
    }

    #[test]
    fn a_message_drops_its_owner_and_a_gap_everything() {
        let (cache, [(one, hash), (_, other)]) = filled();
        cache.hear(Ok(Notice::Message(one.to_string())));
        assert!(cache.get(&hash).is_none());
        assert!(cache.get(&other).is_some());
        for notice in [
            Ok(Notice::Gap),
            Err(RecvError::Lagged(3)),
            Ok(Notice::Message("not an id".to_owned())),
        ] {
            let (cache, entries) = filled();
            cache.hear(notice);
            assert!(entries.iter().all(|(_, hash)| cache.get(hash).is_none()));
        }
    }

    #[test]
    fn who_is_counted_outlives_what_opens_and_ends_with_the_revocation() {
        let (cache, [(one, hash), (_, other)]) = filled();
        cache.clear();
        assert!(cache.get(&hash).is_none());
        assert!(cache.is_counted(&hash) && cache.is_counted(&other));
        cache.forget(one);
        assert!(!cache.is_counted(&hash));
        assert!(cache.is_counted(&other));
        cache.is_unknown(&other);
        assert!(!cache.is_counted(&other));
        assert!(!cache.is_counted(&TokenHash::of("never seen")));
    }

    #[test]
    fn a_row_read_before_a_revocation_does_not_come_back_after_it() {
        let cache = TokenCache::new();
        let (owner, hash) = (Uuid::new_v4(), TokenHash::of("one"));
        let before = cache.revocations();
        cache.forget(owner);
        cache.insert(hash, token(owner), before);
        assert!(cache.get(&hash).is_none());
        cache.insert(hash, token(owner), cache.revocations());
        assert!(cache.get(&hash).is_some());
    }

    #[test]
    fn a_use_is_noted_once_a_minute_also_when_the_clock_jumps_back() {
        let token = token(Uuid::new_v4());
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let noted = |secs: i64| token.is_worth_noting(start + chrono::TimeDelta::seconds(secs));
        assert!(noted(0));
        assert!(!noted(1));
        assert!(!noted(60));
        assert!(noted(61));
        assert!(!noted(-1_000));
        assert!(!noted(100));
        assert!(noted(122));
    }
}
