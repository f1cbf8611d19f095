//! A server without compute.

use molecule_core::backend::{BackendError, InstanceRef, Liveness, NoBackend, WorkspaceBackend};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_support::fixture::spec;

#[tokio::test]
async fn without_a_backend_nothing_starts_and_nobody_is_dead() {
    let unknown = InstanceRef::of(Uuid::new_v4());
    let started = NoBackend.start(&spec(), &CancellationToken::new()).await;
    assert!(matches!(started, Err(BackendError::NotConfigured)));
    NoBackend.stop(&unknown).await.expect("nothing to stop");
    NoBackend
        .remove_storage(unknown.workspace_id)
        .await
        .expect("nothing to remove");
    let found = NoBackend.liveness(&unknown).await;
    assert!(
        matches!(found, Liveness::Unknown(BackendError::NotConfigured)),
        "{found:?}"
    );
    let url = NoBackend.url(&unknown).await.expect("an answer");
    assert_eq!(url, None);
    NoBackend
        .list_managed()
        .await
        .expect_err("no list is not an empty list");
}
