//! Bringing the files of a workspace into its container.

use std::sync::Arc;

use super::super::archive::{ArchiveError, Content};
use super::super::config_file;
use super::super::container::{CONFIG_PATH, SESSIONS_PATH};
use super::super::daemon::CallError;
use super::super::upload;
use super::volumes::Volumes;
use super::{Start, refused};
use crate::backend::BackendError;

const OPERATION: &str = "write files";

impl Start {
    /// Hands a new config volume to the agent's user, through a container that is
    /// never started.
    pub(super) async fn prepare(&self, seed: &str) -> Result<(), BackendError> {
        let content = Content {
            folders: vec!["configs".to_owned()],
            prefix: "",
            template: None,
            spec: None,
        };
        self.upload(seed, "/", content).await
    }

    /// Copies the template, and the files over it.
    pub(super) async fn bring_files(
        &self,
        container: &str,
        volumes: &Volumes,
        sealed: bool,
    ) -> Result<(), BackendError> {
        let template = match &self.spec.existing_config {
            None => self.spec.template_dir.clone(),
            Some(existing) => {
                let lost = volumes.configs.new || self.has_no_config(container).await?;
                match (lost, &existing.fallback) {
                    (false, _) => None,
                    (true, Some(fallback)) => Some(fallback.clone()),
                    (true, None) => return Err(BackendError::NoConfig),
                }
            }
        };
        let spec = Some(Arc::clone(&self.spec));
        if sealed {
            // Only what lies in a volume can be written.
            let content = Content {
                folders: Vec::new(),
                prefix: "",
                template,
                spec,
            };
            return self.upload(container, CONFIG_PATH, content).await;
        }
        // A folder cannot be handed over from inside, so this begins at the root.
        let mut folders = vec!["configs".to_owned()];
        // A new volume belongs to root until somebody says otherwise.
        if volumes.workspace.as_ref().is_some_and(|volume| volume.new) {
            folders.push("workspace".to_owned());
        }
        let new_sessions = volumes.sessions.as_ref().is_some_and(|volume| volume.new);
        if new_sessions && self.belongs_to_root(container, SESSIONS_PATH).await? {
            folders.push(SESSIONS_PATH.trim_start_matches('/').to_owned());
        }
        let content = Content {
            folders,
            prefix: "configs/",
            template,
            spec,
        };
        self.upload(container, "/", content).await
    }

    async fn has_no_config(&self, container: &str) -> Result<bool, BackendError> {
        let daemon = &self.inner.daemon;
        let found = self
            .read(config_file::read(daemon, container, "config.yaml"))
            .await;
        match found {
            Ok(config_file::Found::Nothing) => Ok(true),
            // An agent may have put a link in its place: that is its configuration too.
            // A daemon that cannot say leaves the files alone.
            Ok(_) | Err(CallError::Status(..) | CallError::Broken(_)) => Ok(false),
            Err(error) => Err(self.error("look for config.yaml", error)),
        }
    }

    /// False when the image itself says whose a folder is: a new volume takes that
    /// over from the image.
    async fn belongs_to_root(&self, container: &str, path: &str) -> Result<bool, BackendError> {
        let daemon = &self.inner.daemon;
        let owner = self.read(config_file::owner(daemon, container, path)).await;
        match owner {
            Ok(owner) => Ok(owner.is_none_or(|owner| owner == 0)),
            Err(CallError::Status(..) | CallError::Broken(_)) => Ok(true),
            Err(error) => Err(self.error("look for sessions", error)),
        }
    }

    async fn upload(
        &self,
        container: &str,
        path: &str,
        content: Content,
    ) -> Result<(), BackendError> {
        let sending = upload::send(&self.inner.daemon, container, path, content);
        match self.read(sending).await {
            // Half an archive can look like a whole one to the daemon.
            Ok((Err(error @ (ArchiveError::Template(_) | ArchiveError::Read(..))), _)) => {
                Err(refused(OPERATION, &error.to_string()))
            }
            Ok((_, Err(error))) if error.is_disk_full() => {
                let what = "no space left for the files of the workspace";
                Err(self.explained(OPERATION, what, error))
            }
            Ok((_, Err(error))) | Err(error) => Err(self.error(OPERATION, error)),
            Ok((Err(error), Ok(()))) => Err(refused(OPERATION, &error.to_string())),
            Ok((Ok(()), Ok(()))) => Ok(()),
        }
    }
}
