//! The shape of a plan. None of its fields can hold a value of a variable.

use molecule_hooks::{EnvError, EnvSource, EnvStep};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::environment::Ignored;

/// Every variable that the next boot of a workspace would get, without values.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvPlan {
    /// The workspace.
    workspace_id: Uuid,
    /// True for the plan of a payload: the id was made up for it and belongs to no
    /// workspace, and its hashes compare with nothing.
    pub(super) made_up_id: bool,
    /// When the plan was made.
    created_at: String,
    /// Names the key of the hashes. Hashes of different keys do not compare.
    pub(super) hash_key: String,
    /// The variables by name, with those that a hook removed.
    pub(super) keys: Vec<PlannedKey>,
    /// Stored secrets that are left out.
    pub(super) ignored: Vec<IgnoredSecret>,
    /// Variables that the configuration requires and that are absent or empty: the
    /// boot would fail.
    pub(super) missing: Vec<String>,
    /// Why the boot would fail before or after that; `keys` then holds what was put
    /// together until there.
    pub(super) error: Option<PlanError>,
    /// Compared with the boot of the running container; null when nothing is known
    /// of that.
    pub(super) booted: Option<Booted>,
}

/// One variable.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PlannedKey {
    /// Its name.
    pub(super) key: String,
    /// False when a hook removed it.
    pub(super) present: bool,
    /// True when it was written as a secret.
    pub(super) sensitive: bool,
    /// True for a name that no secret and no hook may write.
    pub(super) reserved: bool,
    /// Keyed hash of the value: equal for equal values of this variable of this
    /// workspace, and comparable with no other. Null without a value, and for a
    /// value that only the start decides.
    pub(super) hash: Option<String>,
    /// When the value, a token, stops working, if that is known.
    pub(super) expires_at: Option<String>,
    /// Everyone who wrote it, first to last.
    pub(super) writers: Vec<Writer>,
    /// The last of them, whose word counts.
    pub(super) won_by: Writer,
}

/// Who wrote or removed a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Writer {
    source: Source,
    /// Name of the hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hook: Option<String>,
    /// Version of the hook's crate; absent when it was registered by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// True when it removed the variable instead of setting it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
}

/// Where a variable comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// The server itself.
    Platform,
    /// A secret of all workspaces.
    GlobalSecret,
    /// A secret of this workspace.
    WorkspaceSecret,
    /// Name, role, model and parent of the workspace.
    Identity,
    /// A hook.
    Hook,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Source {
    fn of(source: &EnvSource) -> Self {
        match source {
            EnvSource::Platform => Self::Platform,
            EnvSource::GlobalSecret => Self::GlobalSecret,
            EnvSource::WorkspaceSecret => Self::WorkspaceSecret,
            EnvSource::Identity => Self::Identity,
            EnvSource::Hook { .. } => Self::Hook,
            _ => Self::Unknown,
        }
    }
}

impl Writer {
    pub(super) fn of(step: &EnvStep) -> Self {
        let (hook, version) = match &step.source {
            EnvSource::Hook { name, version } => (Some(name.clone()), Some(version.clone())),
            _ => (None, None),
        };
        Self {
            source: Source::of(&step.source),
            hook,
            version: version.filter(|version| !version.is_empty()),
            removed: step.removed,
        }
    }

    pub(super) fn platform() -> Self {
        Self {
            source: Source::Platform,
            hook: None,
            version: None,
            removed: false,
        }
    }
}

/// A stored secret that no environment can hold.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IgnoredSecret {
    /// Its name, cut when it is none.
    key: String,
    source: Source,
    /// `reserved`, `invalid_name`, `nul_byte` or `too_long`.
    reason: &'static str,
}

pub(super) fn ignored(ignored: &Ignored) -> IgnoredSecret {
    let (key, reason) = match &ignored.error {
        EnvError::InvalidName(shown) => (shown.clone(), "invalid_name"),
        EnvError::Reserved(_) => (ignored.name.clone(), "reserved"),
        EnvError::NulByte(_) => (ignored.name.clone(), "nul_byte"),
        EnvError::TooLong(_) => (ignored.name.clone(), "too_long"),
        _ => (ignored.name.clone(), "refused"),
    };
    IgnoredSecret {
        key,
        source: Source::of(&ignored.source),
        reason,
    }
}

/// Why the boot would fail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanError {
    /// `load_template`, `load_secrets`, `run_hooks` or `start_backend`.
    pub(super) step: &'static str,
    /// The hook that failed.
    hook: Option<String>,
    /// What the boot would fail with. The cause is in the server's log.
    message: String,
}

impl PlanError {
    pub(super) fn at(step: &'static str, message: String) -> Self {
        let hook = None;
        Self {
            step,
            hook,
            message,
        }
    }

    pub(super) fn of_hook(mut self, hook: String) -> Self {
        self.hook = Some(hook);
        self
    }
}

/// How the next boot differs from the one of the running container.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Booted {
    /// When the container was started.
    pub(super) at: String,
    /// Whether anything differs but renewed tokens. Null when it cannot be told:
    /// the boot would fail, or the hashes are of different keys.
    pub(super) differs: Option<bool>,
    /// What differs, by name.
    pub(super) changes: Vec<KeyChange>,
}

/// One difference.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyChange {
    pub(super) key: String,
    pub(super) change: Change,
}

/// What happened to a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// The next boot has it and the running container has not.
    Added,
    /// The running container has it and the next boot has not.
    Removed,
    /// Another value.
    Changed,
    /// The same value, as far as that is known, from somebody else.
    WriterChanged,
    /// A new token in place of one that expires, from the same writer.
    Renewed,
}

impl EnvPlan {
    pub(super) fn new(workspace_id: Uuid, hash_key: &str, created_at: String) -> Self {
        Self {
            workspace_id,
            made_up_id: false,
            created_at,
            hash_key: hash_key.to_owned(),
            keys: Vec::new(),
            ignored: Vec::new(),
            missing: Vec::new(),
            error: None,
            booted: None,
        }
    }

    pub(super) fn failing(mut self, error: PlanError) -> Self {
        self.error = Some(error);
        self
    }
}

/// What a container booted with, as stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct BootPlan {
    pub(super) hash_key: String,
    /// The container it is the plan of.
    pub(super) instance_id: String,
    pub(super) keys: Vec<BootedKey>,
}

/// A variable of a boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BootedKey {
    pub(super) key: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) sensitive: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<String>,
    pub(super) writers: Vec<Writer>,
}

impl BootPlan {
    pub(super) fn new(hash_key: &str, keys: Vec<PlannedKey>) -> Self {
        let present = keys.into_iter().filter(|key| key.present);
        Self {
            hash_key: hash_key.to_owned(),
            instance_id: String::new(),
            keys: present
                .map(|key| BootedKey {
                    key: key.key,
                    sensitive: key.sensitive,
                    hash: key.hash,
                    expires_at: key.expires_at,
                    writers: key.writers,
                })
                .collect(),
        }
    }

    /// The plan as it is stored for what was started with it.
    pub(in super::super) fn of_instance(mut self, instance_id: &str) -> Value {
        instance_id.clone_into(&mut self.instance_id);
        json!(self)
    }
}
