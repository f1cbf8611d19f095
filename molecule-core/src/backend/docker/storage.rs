//! Taking away the volumes of a workspace.

use std::time::Duration;

use bollard::models::ContainerStateStatusEnum;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::daemon::CallError;
use super::objects::{self, Found, Removed};
use super::{Inner, names};
use crate::backend::BackendError;
use crate::backend::scrub::Scrubber;

const OPERATION: &str = "remove storage";
/// Time between two looks at a container that is being removed.
const PAUSE: Duration = Duration::from_millis(100);

impl Inner {
    /// Removes every volume of a workspace that is not somebody else's. One that
    /// cannot be removed does not keep the others.
    pub(super) async fn remove_storage(&self, workspace: Uuid) -> Result<(), BackendError> {
        let mut waited = false;
        let mut first = None;
        for name in names::all_volumes(workspace) {
            let mut removed = self.remove_volume(&name, workspace).await;
            if matches!(removed, Ok(Removed::InUse(_))) && !waited {
                waited = true;
                if self.await_removals(workspace).await {
                    removed = self.remove_volume(&name, workspace).await;
                }
            }
            if let Ok(Removed::InUse(error)) | Err(error) = removed {
                let what = format!("failed to remove volume {name}");
                first.get_or_insert(error.explained(OPERATION, &what, &Scrubber::plain()));
            }
        }
        first.map_or(Ok(()), Err)
    }

    async fn remove_volume(&self, name: &str, workspace: Uuid) -> Result<Removed, CallError> {
        objects::remove_volume(&self.daemon, name, &self.instance, workspace).await
    }

    /// Waits until containers that are being removed are gone: until then they use
    /// their volumes, and a stop does not wait for them. False when there are none.
    async fn await_removals(&self, workspace: Uuid) -> bool {
        let deadline = Instant::now() + self.daemon.timeout();
        let mut found_one = false;
        for name in names::all_containers(workspace) {
            while Instant::now() < deadline {
                let found = objects::find(&self.daemon, &name, &self.instance).await;
                let Ok(Found::Ours(_, container)) = found else {
                    break;
                };
                let status = container.state.and_then(|state| state.status);
                if status != Some(ContainerStateStatusEnum::REMOVING) {
                    break;
                }
                found_one = true;
                sleep(PAUSE).await;
            }
        }
        found_one
    }
}
