//! The network that workspaces share.

use std::collections::HashMap;

use bollard::models::{Network, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder};

use super::daemon::{CallError, Daemon};
use super::names::MANAGED;

/// Makes sure that the network exists. Several servers may do this at once.
pub(super) async fn ensure(daemon: &Daemon, name: &str) -> Result<(), CallError> {
    let inspected = daemon
        .call(|client| client.inspect_network(name, None::<InspectNetworkOptions>))
        .await;
    match inspected {
        Ok(_) => return Ok(()),
        Err(error) if error.is_network_missing() => {}
        Err(error) => return Err(error),
    }
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        labels: Some(HashMap::from([(MANAGED.to_owned(), "true".to_owned())])),
        ..NetworkCreateRequest::default()
    };
    match daemon.call(|client| client.create_network(request)).await {
        Ok(created) => keep_one(daemon, name, &created.id).await,
        // Somebody else was faster.
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Older daemons let two creators make two networks of one name, and then
/// refuse the name as ambiguous. Everybody keeps the oldest.
async fn keep_one(daemon: &Daemon, name: &str, ours: &str) -> Result<(), CallError> {
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
    match oldest.and_then(|network| network.id) {
        Some(oldest) if oldest != ours => daemon
            .call(|client| client.remove_network(ours))
            .await
            .or_else(|error| {
                if error.is_network_missing() {
                    Ok(())
                } else {
                    Err(error)
                }
            }),
        _ => Ok(()),
    }
}
