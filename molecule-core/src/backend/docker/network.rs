//! The network that workspaces share.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;

use tokio::time::sleep;

use super::daemon::{CallError, Daemon};
use super::names::MANAGED;

/// How long making a network can take another server.
const SETTLE: Duration = Duration::from_millis(300);

/// The id of the network, which is made when it is missing. Several servers may
/// do this at once.
///
/// Older daemons let two creators make two networks of one name, and then refuse
/// the name as ambiguous. So the id is what containers are given, and everybody
/// takes the oldest.
pub(super) async fn ensure(daemon: &Daemon, name: &str) -> Result<String, CallError> {
    // One at a time in this server, so that only other servers can interfere.
    let _turn = daemon.network_turn().await;
    if let Some(id) = find(daemon, name).await? {
        return Ok(id);
    }
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        labels: Some(HashMap::from([(MANAGED.to_owned(), "true".to_owned())])),
        ..NetworkCreateRequest::default()
    };
    let ours = match daemon.call(|client| client.create_network(request)).await {
        Ok(created) => {
            // Others who began at the same time are visible after this.
            sleep(SETTLE).await;
            Some(created.id)
        }
        // Somebody else was faster.
        Err(error) if error.is_conflict() => None,
        Err(error) => return Err(error),
    };
    let oldest = find(daemon, name).await?.or_else(|| ours.clone());
    let Some(oldest) = oldest else {
        return Err(CallError::Broken("the network vanished".to_owned()));
    };
    if let Some(ours) = ours.filter(|ours| *ours != oldest) {
        match daemon.call(|client| client.remove_network(&ours)).await {
            Err(error) if !error.is_network_missing() => return Err(error),
            _ => {}
        }
    }
    Ok(oldest)
}

async fn find(daemon: &Daemon, name: &str) -> Result<Option<String>, CallError> {
    let filter = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
    let options = ListNetworksOptionsBuilder::default()
        .filters(&filter)
        .build();
    let found = daemon
        .call(|client| client.list_networks(Some(options)))
        .await?;
    // The filter also finds names that only contain the wanted one.
    let same = found
        .into_iter()
        .filter(|network| network.name.as_deref() == Some(name));
    let oldest = same.min_by_key(|network: &Network| (network.created, network.id.clone()));
    Ok(oldest.and_then(|network| network.id))
}
