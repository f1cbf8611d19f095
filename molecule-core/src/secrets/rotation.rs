//! Sealing stored values again with the current key.
//!
//! Works a page at a time and one row per transaction, beside running servers: a
//! row is replaced only while it holds the bytes that were read. What is done
//! stays done, so that a rotation that was stopped is simply started again.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Cipher;
use super::cipher::{HEAD_BYTES, Protection, protection};
use super::model::Scope;
use super::store::rotation::{self as store, StoredRow, Table};
use super::{CipherError, FingerprintError, Fingerprints, Sealed, aad};
use crate::store::Db;

/// Rows read at once.
const PAGE: i64 = 100;
/// A table is gone through until there is nothing left to do: somebody may write
/// meanwhile, even with an old key.
const PASSES: usize = 5;
/// Rows that cannot be opened and are named; of more there is only the count.
const NAMED: usize = 1000;

/// The work on one database.
pub(crate) struct Rotation {
    db: Db,
    cipher: Cipher,
}

/// A value that no configured key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) table: &'static str,
    pub(crate) key: String,
    /// None for a global secret.
    pub(crate) workspace_id: Option<Uuid>,
    pub(crate) cause: CipherError,
}

/// What became of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RotatedTable {
    pub(crate) table: &'static str,
    /// Values that were sealed again, or in a dry run would be.
    pub(crate) sealed: u64,
    /// Values that no configured key opens.
    pub(crate) unreadable: u64,
    /// Values that others kept writing with another key.
    pub(crate) left: u64,
}

/// What a rotation did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Rotated {
    pub(crate) tables: Vec<RotatedTable>,
    /// The first of those that could not be opened.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl Rotated {
    /// How many values could not be opened, named or not.
    pub(crate) fn unreadable_in_all(&self) -> u64 {
        self.tables.iter().map(|table| table.unreadable).sum()
    }

    /// True when every value is under the current key, or in a dry run would be.
    pub(crate) fn is_complete(&self) -> bool {
        let is_done = |table: &RotatedTable| table.unreadable == 0 && table.left == 0;
        self.tables.iter().all(is_done)
    }
}

/// How many values of a table are protected in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) table: &'static str,
    pub(crate) protection: Protection,
    pub(crate) amount: u64,
}

impl Rotation {
    pub(crate) fn new(db: Db, cipher: Cipher) -> Self {
        Self { db, cipher }
    }

    /// The cipher whose current key values are sealed with.
    pub(crate) fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    /// Seals everything that is not under the current key again; `dry` opens it
    /// only. Without a key nothing is done: there is no way back to plain text.
    pub(crate) async fn run(&self, dry: bool) -> sqlx::Result<Rotated> {
        let mut rotated = Rotated::default();
        for table in Table::ALL {
            let (mut sealed, mut left) = (0, 0);
            let mut outcome = Pass::default();
            for _ in 0..PASSES {
                outcome = self.pass(table, dry).await?;
                sealed += outcome.sealed;
                left = if dry {
                    0
                } else {
                    outcome.sealed + outcome.raced
                };
                if left == 0 {
                    break;
                }
            }
            rotated.tables.push(RotatedTable {
                table: table.name(),
                sealed,
                unreadable: outcome.unreadable,
                left,
            });
            let room = NAMED.saturating_sub(rotated.unreadable.len());
            rotated
                .unreadable
                .extend(outcome.named.into_iter().take(room));
        }
        if !dry && self.cipher.is_on() {
            self.seal_fingerprint_key().await?;
        }
        Ok(rotated)
    }

    /// No secret, and nothing is lost with it but comparisons: one that cannot be
    /// opened does not make the rotation incomplete.
    async fn seal_fingerprint_key(&self) -> sqlx::Result<()> {
        match Fingerprints::seal_again(&self.db, &self.cipher).await {
            Ok(()) => Ok(()),
            Err(FingerprintError::Store(error)) => Err(error),
            Err(FingerprintError::Cipher(error)) => {
                tracing::warn!(%error, "the key for hashes of values was not sealed again");
                Ok(())
            }
        }
    }

    /// Goes through a table once.
    async fn pass(&self, table: Table, dry: bool) -> sqlx::Result<Pass> {
        let mut pass = Pass::default();
        if !self.cipher.is_on() {
            return Ok(pass);
        }
        let head = self.cipher.current_head();
        let mut after = Uuid::nil();
        loop {
            let rows = store::old_rows(&self.db, table, after, &head, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(pass);
            };
            after = last.id;
            for row in rows {
                self.row(table, &row, dry, &mut pass).await?;
            }
        }
    }

    async fn row(
        &self,
        table: Table,
        row: &StoredRow,
        dry: bool,
        pass: &mut Pass,
    ) -> sqlx::Result<()> {
        match self.seal_again(table, row) {
            Ok(_) if dry => pass.sealed += 1,
            Ok(sealed) => match store::swap(&self.db, table, row, &sealed).await? {
                true => pass.sealed += 1,
                false => pass.raced += 1,
            },
            Err(cause) => {
                pass.unreadable += 1;
                if pass.named.len() < NAMED {
                    pass.named.push(Unreadable {
                        table: table.name(),
                        key: row.key.clone(),
                        workspace_id: (table != Table::Global).then_some(row.owner),
                        cause,
                    });
                }
            }
        }
        Ok(())
    }

    fn seal_again(&self, table: Table, row: &StoredRow) -> Result<Sealed, CipherError> {
        let place = match table {
            Table::Workspaces => Scope::Workspace(row.owner).place(&row.key),
            Table::Global => Scope::Global.place(&row.key),
            Table::Inbound => aad("workspaces", &row.owner.to_string(), "inbound_secret"),
        };
        let plain = zeroize::Zeroizing::new(self.cipher.open(&row.sealed(), &place)?);
        self.cipher.seal(&plain, &place)
    }

    /// Counts the values of every table by their protection.
    pub(crate) async fn tally(&self) -> sqlx::Result<Vec<Tally>> {
        let mut tallies = Vec::new();
        for table in Table::ALL {
            let mut amounts: BTreeMap<Protection, u64> = BTreeMap::new();
            for row in store::tally(&self.db, table).await? {
                let head = row.head.unwrap_or_default();
                debug_assert!(head.len() <= HEAD_BYTES, "the statement cuts the value off");
                let amount = u64::try_from(row.amount).unwrap_or_default();
                *amounts.entry(protection(row.version, &head)).or_default() += amount;
            }
            tallies.extend(amounts.into_iter().map(|(protection, amount)| Tally {
                table: table.name(),
                protection,
                amount,
            }));
        }
        Ok(tallies)
    }
}

/// What one pass over a table did.
#[derive(Default)]
struct Pass {
    sealed: u64,
    raced: u64,
    unreadable: u64,
    named: Vec<Unreadable>,
}
