//! Who runs an image of a repository.

use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::{StreamExt, TryStreamExt};

use super::super::daemon::CallError;
use super::super::{Inner, names, objects};
use super::reference::Reference;
use crate::backend::ImageUser;

/// How many containers are looked at at once.
const AT_ONCE: usize = 8;

/// The workspaces of this server whose container was made of an image of exactly the
/// repository of `reference`.
pub(super) async fn of_repository(
    inner: &Inner,
    reference: &str,
) -> Result<Vec<ImageUser>, CallError> {
    let wanted = Reference::parse(reference);
    let filter = names::owned_by(&inner.instance);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filter)
        .build();
    let containers = inner
        .daemon
        .call(|client| client.list_containers(Some(options)))
        .await?;
    let users = futures_util::stream::iter(containers)
        .map(|container| user(inner, container))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    let mut users: Vec<ImageUser> = users
        .into_iter()
        .flatten()
        .filter(|user| Reference::parse(&user.reference).is_of_same_repository(&wanted))
        .collect();
    users.sort_by_key(|user| user.workspace_id);
    users.dedup_by_key(|user| user.workspace_id);
    Ok(users)
}

/// The workspace of an agent's container, and what the container was made with.
async fn user(inner: &Inner, container: ContainerSummary) -> Result<Option<ImageUser>, CallError> {
    let Some(workspace_id) = inner.workspace_of(container.labels.as_ref()) else {
        return Ok(None);
    };
    // Next to the agent's there can be one that prepares a volume.
    let agents = names::containers(workspace_id);
    let is_agents = |name: &String| {
        agents
            .iter()
            .any(|agent| name.trim_start_matches('/') == agent)
    };
    if !container.names.iter().flatten().any(is_agents) {
        return Ok(None);
    }
    let reference = match container.image.filter(|image| !is_id(image)) {
        Some(image) => Some(image),
        // The list shows an id once the tag belongs to a newer image.
        None => match objects::inspect(&inner.daemon, &container.id.unwrap_or_default()).await {
            Ok(found) => found.config.and_then(|config| config.image),
            Err(error) if error.is_container_missing() => None,
            Err(error) => return Err(error),
        },
    };
    Ok(reference.map(|reference| ImageUser {
        workspace_id,
        reference,
    }))
}

/// True for what may be the id of an image instead of its name.
fn is_id(image: &str) -> bool {
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    hex.len() >= 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_name() {
        let id = "0123456789ab";
        assert!(is_id(id));
        assert!(is_id(&format!("sha256:{}", id.repeat(5))));
        for name in ["molecule/agent:1", "agent", "abc", "0123456789ab:1", ""] {
            assert!(!is_id(name), "{name}");
        }
    }
}
