//! Where a running agent is reached.

use std::time::Duration;

use molecule_core::backend::InstanceRef;
use tokio::time::Instant;

use super::never;
use crate::backend_support::fixture::{Fixture, spec};

pub(crate) async fn the_url_of_an_agent_is_known_while_it_runs(fixture: &impl Fixture) {
    // Given a workspace nobody knows: it has no URL
    let backend = fixture.backend();
    let spec = spec();
    let by_name = InstanceRef::of(spec.workspace_id);
    assert_eq!(backend.url(&by_name).await.expect("an answer"), None);

    // When it is started
    let instance = backend.start(&spec, &never()).await.expect("a start");
    let by_id = InstanceRef {
        workspace_id: spec.workspace_id,
        instance_id: Some(instance.instance_id.clone()),
    };

    // Then its URL is the one the start told, also for the server's next life
    for backend in [&backend, &fixture.restarted()] {
        for reference in [&by_name, &by_id] {
            let url = backend.url(reference).await.expect("an answer");
            assert_eq!(url.as_ref(), Some(&instance.url), "{reference:?}");
        }
    }

    // And not that of an instance it once was, nor another server's business
    let former = InstanceRef {
        workspace_id: spec.workspace_id,
        instance_id: Some("0123456789ab".to_owned()),
    };
    assert_eq!(backend.url(&former).await.expect("an answer"), None);
    let stranger = fixture.stranger();
    assert_eq!(stranger.url(&by_id).await.expect("an answer"), None);

    // And there is none once the agent has ended, or is gone
    fixture.kill_compute(spec.workspace_id).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while backend.url(&by_id).await.expect("an answer").is_some() {
        assert!(Instant::now() < deadline, "the URL of a dead agent is told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    backend.stop(&by_id).await.expect("a stop");
    assert_eq!(backend.url(&by_id).await.expect("an answer"), None);
}
