//! What other servers of the same database changed.
//!
//! Only the two snapshots speak on [`Topic::WorkspaceChanged`], when somebody
//! tells them to forget: whoever changes a row has to do that anyway, so nobody
//! can change one and keep it from the others.

use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use super::{Directory, Hierarchy};
use crate::store::{Notice, Relay, Topic};

/// Forgets what other servers change, for as long as the relay lives.
///
/// Begins by forgetting everything: something may have been missed before.
pub(super) async fn listen(relay: &Relay, directory: &Directory, hierarchy: &Hierarchy) {
    let mut notices = relay.subscribe(Topic::WorkspaceChanged);
    directory.forget_all_here();
    hierarchy.forget_here();
    loop {
        match notices.recv().await {
            Ok(Notice::Message(id)) => match Uuid::parse_str(&id) {
                Ok(id) if id == THE_TREE => hierarchy.forget_here(),
                Ok(id) => directory.forget_here(id),
                // From a newer server, about something this one does not know.
                Err(_) => {
                    directory.forget_all_here();
                    hierarchy.forget_here();
                }
            },
            Ok(Notice::Gap) | Err(RecvError::Lagged(_)) => {
                directory.forget_all_here();
                hierarchy.forget_here();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Stands for "who is whose parent" where a notice names a workspace. A status
/// changes often; the tree, which is read whole, hardly ever.
const THE_TREE: Uuid = Uuid::nil();

/// Tells the other servers that the status of a workspace changed.
pub(super) fn status_changed(relay: &Relay, id: Uuid) {
    relay.send(Topic::WorkspaceChanged, id.to_string());
}

/// Tells the other servers that there is another tree.
pub(super) fn tree_changed(relay: &Relay) {
    relay.send(Topic::WorkspaceChanged, THE_TREE.to_string());
}
