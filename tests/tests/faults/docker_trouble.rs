//! A daemon that refuses, hangs, breaks off and drags on, seen over HTTP: the answers
//! are the documented ones, nobody is called dead, and everything is mended once the
//! daemon is.

use std::time::Duration;

use molecule_tests::{ADMIN, Reply, TestApp};
use serde_json::json;

use crate::daemon_proxy::{DaemonProxy, Mode};
use crate::docker_ground::{Ground, objects_of, offline_events, row, until, wait_for_status};
use crate::docker_world::docker_is_wanted;

/// Seconds that a call may take.
const TIMEOUT_SECS: u64 = 2;
/// Two volumes, one container.
const VOLUMES: usize = 2;

struct Behind {
    proxy: DaemonProxy,
    app: TestApp,
    ground: Ground,
    /// Runs all the time, untouched.
    bystander: String,
}

impl Behind {
    async fn new() -> Self {
        let ground = Ground::new();
        let proxy = DaemonProxy::start("/var/run/docker.sock".as_ref());
        let app = ground
            .server(|config| {
                config.backend.docker.host = Some(proxy.address());
                config.backend.docker.timeout_secs = TIMEOUT_SECS;
                config.workspaces.restarts_per_minute = 6000;
            })
            .start()
            .await;
        let bystander = ground.create_online(&app, "bystander").await;
        Self {
            proxy,
            app,
            ground,
            bystander,
        }
    }

    async fn act(&self, id: &str, what: &str) -> Reply {
        let path = format!("/workspaces/{id}/{what}");
        let request = self.app.post(&path, json!({})).bearer(ADMIN);
        request.send().await
    }

    async fn delete(&self, id: &str) -> Reply {
        let path = format!("/workspaces/{id}");
        self.app.delete(&path).bearer(ADMIN).send().await
    }

    /// Nothing but the one that was left alone is still there, and it never was away.
    async fn assert_bystander_is_well(&self, container: &str) {
        assert_eq!(objects_of(&self.bystander).0, [container]);
        assert_eq!(row(&self.app, &self.bystander).await["status"], "online");
        assert_eq!(offline_events(&self.app).await, 0, "called dead");
    }
}

/// What every answer about a failed start says.
async fn assert_failed(behind: &Behind, id: &str) {
    wait_for_status(&behind.app, id, "failed").await;
    let row = behind.app.listed(id).await.expect("a row");
    assert_eq!(row["last_sample_error"], "workspace start failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_and_restarting_fail_as_documented_and_work_again() {
    if !docker_is_wanted() {
        return;
    }
    let behind = Behind::new().await;
    let container = objects_of(&behind.bystander).0.remove(0);
    for (part, mode) in [
        ("", Mode::Status(500)),
        ("", Mode::Hang),
        ("", Mode::CutAfter(0)),
        ("/containers/create", Mode::Status(500)),
        ("/containers/create", Mode::CutAfter(20)),
        ("/archive", Mode::Hang),
        ("/start", Mode::CutAfter(0)),
        ("/volumes/create", Mode::CutAfter(10)),
    ] {
        // When a workspace is created under a fault
        behind.proxy.break_calls(part, mode);
        let id = behind.ground.create(&behind.app, "new").await;
        assert_failed(&behind, &id).await;
        behind.proxy.mend();

        // Then a restart brings it up, in one container
        let reply = behind.act(&id, "restart").await;
        assert_eq!(reply.status, 200, "{part} {mode:?}: {}", reply.text);
        wait_for_status(&behind.app, &id, "online").await;
        let (containers, volumes) = objects_of(&id);
        assert_eq!((containers.len(), volumes.len()), (1, VOLUMES), "{mode:?}");

        // And all of it can be removed
        let reply = behind.delete(&id).await;
        assert_eq!(reply.status, 200, "{part} {mode:?}: {}", reply.text);
        assert_eq!(objects_of(&id), (vec![], vec![]), "{part} {mode:?}");
    }

    // When one that runs is restarted under a fault
    let id = behind.ground.create_online(&behind.app, "old").await;
    let before = objects_of(&id);
    for mode in [Mode::Status(500), Mode::Hang, Mode::CutAfter(0)] {
        behind.proxy.break_all(mode);
        let reply = behind.act(&id, "restart").await;
        assert_eq!(reply.status, 200, "{mode:?}: {}", reply.text);
        // Its old container may run on and send heartbeats.
        until("given up", async || {
            let row = row(&behind.app, &id).await;
            row["status"] == "failed" || row["status"] == "online"
        })
        .await;
        behind.proxy.mend();
    }

    // Then it comes back with the storage it had
    let reply = behind.act(&id, "restart").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    until("restarted", async || {
        let containers = objects_of(&id).0;
        let is_online = row(&behind.app, &id).await["status"] == "online";
        is_online && containers.len() == 1 && containers != before.0
    })
    .await;
    assert_eq!(objects_of(&id).1, before.1);
    behind.assert_bystander_is_well(&container).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_stopped_is_stopped_when_the_daemon_is_back() {
    if !docker_is_wanted() {
        return;
    }
    let behind = Behind::new().await;
    let container = objects_of(&behind.bystander).0.remove(0);
    for mode in [Mode::Status(500), Mode::Hang, Mode::CutAfter(0)] {
        // Given three running workspaces on a daemon that breaks
        let mut ids = Vec::new();
        for name in ["paused", "hibernated", "removed"] {
            ids.push(behind.ground.create_online(&behind.app, name).await);
        }
        behind.proxy.break_all(mode);

        // When they are paused, put to sleep and deleted, then each answer says that
        // its compute may still run
        let reply = behind.act(&ids[0], "pause").await;
        assert_eq!(reply.status, 200, "{mode:?}: {}", reply.text);
        assert_eq!(reply.json()["stop_failures"], 1, "{mode:?}: {}", reply.text);
        let reply = behind.act(&ids[1], "hibernate").await;
        assert_eq!(reply.status, 500, "{mode:?}: {}", reply.text);
        assert_eq!(reply.error(), "failed to stop workspace");
        assert_eq!(row(&behind.app, &ids[1]).await["status"], "online");
        let reply = behind.delete(&ids[2]).await;
        assert_eq!(reply.status, 500, "{mode:?}: {}", reply.text);
        let text = reply.error();
        assert!(text.contains("1 stop call(s) failed"), "{mode:?}: {text}");

        // When the daemon is back
        behind.proxy.mend();

        // Then what was asked for happens by itself, and nothing else
        until("stopped, storage kept", async || {
            let (containers, volumes) = objects_of(&ids[0]);
            containers.is_empty() && volumes.len() == VOLUMES
        })
        .await;
        until("removed whole", async || {
            objects_of(&ids[2]) == (vec![], vec![])
        })
        .await;
        assert_eq!(row(&behind.app, &ids[0]).await["status"], "paused");
        assert_eq!(objects_of(&ids[1]).0.len(), 1, "{mode:?}");
        assert_eq!(row(&behind.app, &ids[1]).await["status"], "online");
        behind.assert_bystander_is_well(&container).await;
        for id in &ids[..2] {
            let reply = behind.delete(id).await;
            assert_eq!(reply.status, 200, "{mode:?}: {}", reply.text);
            assert_eq!(objects_of(id), (vec![], vec![]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_daemon_only_takes_longer() {
    if !docker_is_wanted() {
        return;
    }
    let behind = Behind::new().await;
    let slow = Mode::Slow(Duration::from_millis(20));
    behind.proxy.break_all(slow);
    let id = behind.ground.create_online(&behind.app, "one").await;
    for (what, status) in [("pause", "paused"), ("resume", "online")] {
        let reply = behind.act(&id, what).await;
        assert_eq!(reply.status, 200, "{what}: {}", reply.text);
        wait_for_status(&behind.app, &id, status).await;
    }
    let reply = behind.delete(&id).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(objects_of(&id), (vec![], vec![]));
}
