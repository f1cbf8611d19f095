//! Two servers with a database each on one daemon, whose loops look all the time.

use molecule_tests::{ADMIN, TestApp};
use uuid::Uuid;

use crate::docker_ground::{Ground, objects_of, offline_events, row, until};
use crate::docker_world::{IMAGE, docker, docker_is_wanted};

/// Deletes rows without what belongs to them, as a restored backup does.
async fn forget(app: &TestApp, name: &str) {
    let ids = format!("(SELECT id FROM workspaces WHERE name LIKE '{name}')");
    for table in [
        "workspace_auth_tokens",
        "canvas_layouts",
        "workspace_secrets",
    ] {
        let sql = format!("DELETE FROM {table} WHERE workspace_id IN {ids}");
        app.database.execute(&sql).await;
    }
    let sql = format!("DELETE FROM workspaces WHERE name LIKE '{name}'");
    app.database.execute(&sql).await;
}

/// Which database a container says it belongs to.
fn instance_of(container: &str) -> String {
    let format = "{{index .Config.Labels \"molecule.platform.instance\"}}";
    docker(&["inspect", "--format", format, container])
}

/// A stopped container made by somebody else; returns its id.
fn strange_container(name: &str, labels: &[String]) -> String {
    let mut args = vec!["create", "--name", name, "--network", "none"];
    for label in labels {
        args.extend(["--label", label]);
    }
    args.push(IMAGE);
    docker(&args)
}

/// Waits until the orphan sweep of a server went through everything a few times.
async fn rounds(app: &TestApp) {
    let last = async || {
        let loops = app.get("/admin/liveness").bearer(ADMIN).send().await.json();
        let at = &loops["subsystems"]["orphan-sweeper"]["last_tick_at"];
        at.as_str().unwrap_or_default().to_owned()
    };
    for _ in 0..4 {
        let before = last().await;
        until("another round", async || last().await != before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_never_touch_each_other_s_containers() {
    if !docker_is_wanted() {
        return;
    }
    // Given two servers with workspaces
    let ground = Ground::new();
    let first = ground.server(|_| {}).start().await;
    let second = ground.server(|_| {}).start().await;
    let mut ids = Vec::new();
    for (app, name) in [(&first, "kept"), (&first, "lost"), (&second, "theirs")] {
        ids.push(ground.create_online(app, name).await);
    }
    let objects: Vec<_> = ids.iter().map(|id| objects_of(id)).collect();
    let (ours, theirs) = (instance_of(&objects[0].0[0]), instance_of(&objects[2].0[0]));
    assert_ne!(ours, theirs);

    // And containers that only look like theirs
    let managed = "molecule.platform.managed=true".to_owned();
    let owned = |by: &str| format!("molecule.platform.instance={by}");
    let of = |id: &str| format!("molecule.workspace.id={id}");
    let unknown = Uuid::new_v4().to_string();
    let mut strange = Vec::new();
    for (kind, labels) in [
        ("plain", vec![]),
        ("unowned", vec![managed.clone(), of(&unknown)]),
        ("unnamed", vec![managed.clone(), owned(&ours)]),
        ("odd", vec![managed.clone(), owned(&ours), of("not-an-id")]),
        (
            "third",
            vec![managed.clone(), owned("somebody-else"), of(&unknown)],
        ),
    ] {
        let name = format!("{kind}-{unknown}");
        strange.push((kind, strange_container(&name, &labels)));
    }
    let strangers = Strangers(strange);

    // When the first one forgets a workspace
    forget(&first, "lost").await;

    // Then that is removed, and nothing else
    until("removed", async || objects_of(&ids[1]) == (vec![], vec![])).await;
    rounds(&first).await;
    rounds(&second).await;
    assert_eq!(objects_of(&ids[0]), objects[0]);
    assert_eq!(objects_of(&ids[2]), objects[2]);
    strangers.assert_untouched();

    // When it forgets everything
    forget(&first, "%").await;
    until("removed", async || objects_of(&ids[0]) == (vec![], vec![])).await;
    rounds(&first).await;
    rounds(&second).await;
    assert_eq!(objects_of(&ids[2]), objects[2]);
    strangers.assert_untouched();

    // When another database takes its place
    let (gone, _dir) = first.shutdown().await;
    drop(gone);
    let third = ground.server(|_| {}).start().await;
    rounds(&third).await;

    // Then it finds nothing that is its own, and the neighbour never noticed
    assert_eq!(objects_of(&ids[2]), objects[2]);
    strangers.assert_untouched();
    assert_eq!(row(&second, &ids[2]).await["status"], "online");
    assert_eq!(offline_events(&second).await, 0);
    let reply = second.delete(&format!("/workspaces/{}", ids[2]));
    assert_eq!(reply.bearer(ADMIN).send().await.status, 200);
    assert_eq!(objects_of(&ids[2]), (vec![], vec![]));
}

/// Containers that are nobody's here; removed at the end.
struct Strangers(Vec<(&'static str, String)>);

impl Strangers {
    #[track_caller]
    fn assert_untouched(&self) {
        for (kind, id) in &self.0 {
            let found = docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("id={id}")]);
            assert_eq!(found, *id, "{kind} was removed");
        }
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for (_, id) in &self.0 {
            let mut command = std::process::Command::new("docker");
            let _ = command.args(["rm", "-f", id]).output();
        }
    }
}
