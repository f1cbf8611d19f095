//! Restarts for another image: who is asked for by the room that rolls images out.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::agent_config::safe_runtime;
use super::{Workspaces, store};
use crate::backend::ImageDigest;
use crate::error::Result;
use crate::store::timestamp;

impl Workspaces {
    /// Requests a restart of a workspace, as durable and as bounded as any other,
    /// unless it is of another runtime, which can share a repository with this one, or
    /// is known to run this content. True when it will restart. Call
    /// [`poke_restarts`](Self::poke_restarts) after the last.
    pub(crate) async fn request_renewal(
        &self,
        id: Uuid,
        runtime: &str,
        wanted: Option<&ImageDigest>,
    ) -> Result<bool> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let default = &services.config.workspaces.default_runtime;
        let stored = store::renewal::runtime_of(&services.db, id).await?;
        let Some(stored) = stored.filter(|stored| safe_runtime(stored, default) == runtime) else {
            return Ok(false);
        };
        let wanted = wanted.map(ImageDigest::as_str);
        Ok(store::renewal::request(&services.db, id, &stored, wanted, now).await?)
    }

    /// Whether a workspace of a runtime that runs, or should, is known to run another
    /// content.
    pub(crate) async fn run_another(&self, runtime: &str, content: &ImageDigest) -> Result<bool> {
        let services = &self.services;
        let default = &services.config.workspaces.default_runtime;
        let stored = store::renewal::runtimes_with_another(&services.db, content.as_str()).await?;
        Ok(stored
            .iter()
            .any(|name| safe_runtime(name, default) == runtime))
    }

    /// Runtimes of workspaces that run or should, as images know them.
    pub(crate) async fn runtimes_in_use(&self) -> Result<BTreeSet<String>> {
        let services = &self.services;
        let default = &services.config.workspaces.default_runtime;
        let stored = store::renewal::runtimes_in_use(&services.db).await?;
        let named = |name: &String| safe_runtime(name, default).to_owned();
        Ok(stored.iter().map(named).collect())
    }
}
