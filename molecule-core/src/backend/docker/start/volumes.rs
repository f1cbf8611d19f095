//! The volumes of a workspace: the ones that are there stay in use, the others are
//! made.

use std::slice;

use bollard::models::VolumeCreateRequest;

use super::super::container::Workspace;
use super::super::isolation::Isolation;
use super::super::objects::{self, Removed};
use super::super::{Inner, names};
use super::{Start, refused};
use crate::backend::{BackendError, StartSpec, UndoStack};

/// The runtime whose sessions have a volume of their own.
const SESSIONS_RUNTIME: &str = "claude-code";
/// A variable that asks for new sessions at every start.
const RESET_VARIABLE: &str = "WORKSPACE_RESET_SESSION";

/// A volume that is there.
pub(super) struct Volume {
    pub(super) name: String,
    /// This start made it.
    pub(super) new: bool,
}

/// The volumes of a workspace.
pub(super) struct Volumes {
    pub(super) configs: Volume,
    pub(super) workspace: Option<Volume>,
    pub(super) sessions: Option<Volume>,
}

/// What becomes of the volume with the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sessions {
    /// There is none.
    None,
    /// It is used as it is.
    Keep,
    /// It is discarded; `mount` says whether a new one takes its place.
    Reset { mount: bool },
}

impl Sessions {
    pub(super) fn of(spec: &StartSpec, isolation: Isolation) -> Self {
        if spec.runtime != SESSIONS_RUNTIME {
            return Self::None;
        }
        let mount = !isolation.is_sealed();
        let asked = spec
            .env
            .iter()
            .rev()
            .find(|(name, _)| name == RESET_VARIABLE)
            .is_some_and(|(_, value)| is_true(value.expose()));
        match (spec.reset_session || asked, mount) {
            (true, mount) => Self::Reset { mount },
            (false, true) => Self::Keep,
            (false, false) => Self::None,
        }
    }
}

fn is_true(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "1" | "t" | "true" | "y" | "yes" | "on"
    )
}

/// How a kind of volume is called in errors.
struct Kind {
    operation: &'static str,
    what: &'static str,
}

const CONFIGS: Kind = Kind {
    operation: "create config volume",
    what: "config volume",
};
const SESSIONS: Kind = Kind {
    operation: "create sessions volume",
    what: "claude-sessions volume",
};
const WORKSPACE: Kind = Kind {
    operation: "create workspace volume",
    what: "workspace volume",
};

impl Start {
    /// Finds or makes what can be made while the old container still runs.
    pub(super) async fn ensure_volumes(
        &self,
        undo: &mut UndoStack,
        workspace: &Workspace,
        sessions: Sessions,
    ) -> Result<Volumes, BackendError> {
        let id = self.spec.workspace_id;
        let configs = self
            .ensure_volume(undo, &CONFIGS, &names::config_volumes(id))
            .await?;
        let workspace = match workspace {
            Workspace::Volume => {
                let name = names::workspace_volume(id);
                Some(
                    self.ensure_volume(undo, &WORKSPACE, slice::from_ref(&name))
                        .await?,
                )
            }
            Workspace::Nothing | Workspace::Folder { .. } => None,
        };
        let sessions = match sessions {
            Sessions::Keep => Some(
                self.ensure_volume(undo, &SESSIONS, &names::session_volumes(id))
                    .await?,
            ),
            Sessions::None | Sessions::Reset { .. } => None,
        };
        Ok(Volumes {
            configs,
            workspace,
            sessions,
        })
    }

    /// Discards the sessions and makes room for new ones, once nothing uses them.
    pub(super) async fn reset_sessions(
        &self,
        undo: &mut UndoStack,
        sessions: Sessions,
    ) -> Result<Option<Volume>, BackendError> {
        const OPERATION: &str = "discard sessions";
        let Sessions::Reset { mount } = sessions else {
            return Ok(None);
        };
        let Inner {
            daemon, instance, ..
        } = &*self.inner;
        let id = self.spec.workspace_id;
        let all = names::session_volumes(id);
        for name in &all {
            let removed = self
                .write(objects::remove_volume(daemon, name, instance, id))
                .await;
            match removed {
                Ok(Removed::Yes) => {}
                Ok(Removed::InUse(error)) | Err(error) => {
                    let what = format!("failed to remove volume {name}");
                    return Err(self.explained(OPERATION, &what, error));
                }
            }
        }
        if !mount {
            return Ok(None);
        }
        self.ensure_volume(undo, &SESSIONS, &all).await.map(Some)
    }

    /// The volume under the first of `names` that is there and not somebody else's;
    /// else a new one under the first of them.
    async fn ensure_volume(
        &self,
        undo: &mut UndoStack,
        kind: &Kind,
        names: &[String],
    ) -> Result<Volume, BackendError> {
        let Inner {
            daemon, instance, ..
        } = &*self.inner;
        let id = self.spec.workspace_id;
        let [name, others @ ..] = names else {
            return Err(refused(kind.operation, "it has no name"));
        };
        let what = || format!("failed to create {} {name}", kind.what);
        for candidate in names {
            // With one name only, asking for a new one finds the old one too.
            if others.is_empty() {
                break;
            }
            let found = self
                .read(objects::find_volume(daemon, candidate))
                .await
                .map_err(|error| self.explained(kind.operation, &what(), error))?;
            match found {
                Some(labels) if names::is_our_volume(&labels, instance, id) => {
                    return Ok(Volume {
                        name: candidate.clone(),
                        new: false,
                    });
                }
                // Refused below if it has our name, left alone otherwise.
                Some(_) | None => {}
            }
        }
        let settled = self.undo_with(
            undo,
            kind.operation,
            name.clone(),
            |inner, name, attempt, settled| {
                Box::pin(async move {
                    objects::take_back_volume(&inner.daemon, &name, attempt, settled).await
                })
            },
        );
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(names::labels(instance, id, self.attempt)),
            ..VolumeCreateRequest::default()
        };
        // Answers with the old volume when there is one.
        let created = self
            .write_settling(
                &settled,
                daemon.call(|client| client.create_volume(request)),
            )
            .await
            .map_err(|error| self.explained(kind.operation, &what(), error))?;
        if !names::is_our_volume(&created.labels, instance, id) {
            let reason = format!(
                "{}: a volume of this name belongs to another server",
                what()
            );
            return Err(refused(kind.operation, &reason));
        }
        Ok(Volume {
            name: name.clone(),
            new: names::made_by(Some(&created.labels), self.attempt),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Progress, WorkspaceAccess};

    fn sessions(runtime: &str, tier: u8, reset: bool, env: &[(&str, &str)]) -> Sessions {
        let spec = StartSpec {
            workspace_id: uuid::Uuid::nil(),
            runtime: runtime.to_owned(),
            tier,
            platform_url: String::new(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
            template_dir: None,
            template_root: None,
            files: Vec::new(),
            workspace_dir: None,
            workspace_access: WorkspaceAccess::None,
            existing_config: None,
            reset_session: reset,
            image_pin: None,
            image: None,
            plugins: crate::backend::Plugins::none(),
            progress: Progress::none(),
        };
        Sessions::of(&spec, Isolation::of(tier, false))
    }

    #[test]
    fn only_one_runtime_has_sessions_and_not_in_a_sealed_container() {
        assert_eq!(sessions("claude-code", 2, false, &[]), Sessions::Keep);
        assert_eq!(sessions("claude-code", 1, false, &[]), Sessions::None);
        assert_eq!(sessions("langgraph", 2, true, &[]), Sessions::None);
        let sealed = sessions("claude-code", 1, true, &[]);
        assert_eq!(sealed, Sessions::Reset { mount: false });
    }

    #[test]
    fn a_request_or_a_variable_resets_them() {
        let reset = Sessions::Reset { mount: true };
        assert_eq!(sessions("claude-code", 2, true, &[]), reset);
        for (text, wanted) in [
            ("true", reset),
            (" TRUE ", reset),
            ("1", reset),
            ("on", reset),
            ("", Sessions::Keep),
            ("0", Sessions::Keep),
            ("false", Sessions::Keep),
            ("maybe", Sessions::Keep),
        ] {
            let env = [(RESET_VARIABLE, text)];
            assert_eq!(sessions("claude-code", 2, false, &env), wanted, "{text:?}");
        }
        // The last value counts, as in the environment itself
        let env = [(RESET_VARIABLE, "1"), (RESET_VARIABLE, "0")];
        assert_eq!(sessions("claude-code", 2, false, &env), Sessions::Keep);
    }
}
