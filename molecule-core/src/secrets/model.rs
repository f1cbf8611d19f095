//! What the room knows of a stored secret, and how it is shown.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cipher::{Sealed, aad};
use crate::store::from_row;

/// Whose secret it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every workspace's that has none of that key.
    Global,
    /// One workspace's.
    Workspace(Uuid),
}

impl Scope {
    /// The place a value of this scope and key is bound to.
    pub(super) fn place(self, key: &str) -> Vec<u8> {
        match self {
            Self::Global => aad("global_secrets", "", key),
            Self::Workspace(id) => aad("workspace_secrets", &id.to_string(), key),
        }
    }
}

/// A stored secret without its scope.
#[derive(Clone)]
pub(super) struct SecretRow {
    pub(super) key: String,
    encrypted_value: Vec<u8>,
    encryption_version: i64,
}
from_row!(SecretRow {
    key,
    encrypted_value,
    encryption_version
});

impl SecretRow {
    pub(super) fn sealed(&self) -> Sealed {
        Sealed {
            bytes: self.encrypted_value.clone(),
            version: self.encryption_version,
        }
    }
}

/// A stored secret of any workspace.
pub(super) struct ScopedRow {
    pub(super) workspace_id: Uuid,
    key: String,
    encrypted_value: Vec<u8>,
    encryption_version: i64,
}
from_row!(ScopedRow {
    workspace_id,
    key,
    encrypted_value,
    encryption_version
});

impl ScopedRow {
    pub(super) fn into_secret(self) -> SecretRow {
        SecretRow {
            key: self.key,
            encrypted_value: self.encrypted_value,
            encryption_version: self.encryption_version,
        }
    }
}

/// When a secret was written, and nothing of what.
pub(super) struct ListedRow {
    pub(super) key: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}
from_row!(ListedRow {
    key,
    created_at,
    updated_at
});

impl ListedRow {
    pub(super) fn shown(self, scope: &'static str) -> SecretItem {
        SecretItem {
            key: self.key,
            has_value: true,
            scope,
            created_at: rfc3339(self.created_at),
            updated_at: rfc3339(self.updated_at),
        }
    }
}

/// A secret as lists show it: without its value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SecretItem {
    /// Name of the environment variable.
    key: String,
    /// Always true.
    has_value: bool,
    /// `workspace` or `global`.
    scope: &'static str,
    /// RFC 3339, UTC.
    created_at: String,
    /// RFC 3339, UTC.
    updated_at: String,
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
