//! A server, a daemon and a registry: what administrators decide reaches containers.

use std::time::Duration;

use molecule_core::config::BackendChoice;
use molecule_tests::live::Socket;
use molecule_tests::support::{registration, strict};
use molecule_tests::{ADMIN, Engine, TestApp};
use serde_json::json;
use uuid::Uuid;

use crate::backend_support::agent::{Seen, wait_until_ready};
use crate::backend_support::fixture::Fixture;
use crate::fleet::{admin, assert_row, is_leased, restart};
use crate::support::gate::Gate;
use crate::support::until;
use crate::world::World;

/// A server on the daemon of `world` whose workspaces run `image`. What it makes is
/// removed with the fixture.
async fn server(world: &World, image: &str) -> TestApp {
    let none = strict(Engine::Sqlite).real_backend();
    let none = none.config(|config| config.backend.kind = BackendChoice::None);
    let (database, dir) = none.start().await.shutdown().await;
    let instance = &world.fixture.instance;
    let name = format!("UPDATE platform_state SET value = '{instance}' WHERE key = 'instance_id'");
    database.execute(&name).await;
    let mut docker = world.fixture.config.clone();
    docker
        .images
        .insert("langgraph".to_owned(), image.to_owned());
    strict(Engine::Sqlite)
        .real_backend()
        .config(|config| {
            config.backend.kind = BackendChoice::Docker;
            config.backend.docker = docker;
        })
        .start_on(database, dir)
        .await
}

/// A workspace of this server and its container.
struct Hosted<'a> {
    app: &'a TestApp,
    id: String,
}

impl<'a> Hosted<'a> {
    /// Its agent runs and has registered.
    async fn online(app: &'a TestApp) -> Self {
        let id = app.create(json!({ "name": "dev", "tier": 2 })).await;
        let this = Self { app, id };
        this.comes_online().await;
        this
    }

    /// Waits until a boot is recorded, then registers in the name of its agent, which
    /// cannot do it itself.
    async fn comes_online(&self) {
        let (app, id) = (self.app, &self.id);
        until("the boot is recorded", async || {
            !is_leased(app, id).await && !self.url().await.is_empty()
        })
        .await;
        let seen = Seen::by_agent(&self.url().await).await;
        let token = seen.content(".auth_token").await.expect("its token");
        let registering = app.post("/registry/register", registration(id));
        let registering = registering.bearer(token.trim());
        let reply = registering.send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }

    async fn url(&self) -> String {
        let row = self.app.listed(&self.id).await.expect("a row");
        row["url"].as_str().unwrap_or_default().to_owned()
    }

    async fn runs(&self, digest: &str) {
        let condition = format!("runtime_image_digest = '{digest}'");
        assert_row(self.app, &self.id, &condition).await;
    }

    /// The container that runs, and when it was started.
    async fn container(&self, world: &World) -> (Option<String>, Option<String>) {
        let found = world.fixture.inspect(&format!("ws-{}", self.id)).await;
        (found.id, found.state.and_then(|state| state.started_at))
    }

    /// Fails unless the image of the container holds this.
    async fn holds(&self, world: &World, content: &str) {
        let id = Uuid::parse_str(&self.id).expect("a UUID");
        let look = format!("$B grep -qx {content} /marker");
        world.fixture.script(id, &look).await;
    }
}

async fn pin(app: &TestApp, digest: &str) {
    let request = app.request("PUT", "/admin/runtime-image-pins/langgraph");
    let reply = request.bearer(ADMIN).json(json!({ "digest": digest }));
    let reply = reply.send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(
        reply.json()["reference"]
            .as_str()
            .is_some_and(|text| text.ends_with(&format!("/agent@{digest}"))),
        "{}",
        reply.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_reaches_containers_and_without_one_they_are_left_alone() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.registry.push("agent", "latest", "one").await;
    let app = server(&world, &world.registry.reference("agent", "latest")).await;
    let hosted = Hosted::online(&app).await;
    hosted.runs(&one).await;
    hosted.holds(&world, "one").await;

    // When the registry has another content and somebody refreshes
    let two = world.registry.push("agent", "latest", "two").await;
    let path = "/admin/workspace-images/refresh?runtime=langgraph";
    let reply = admin(&app, "POST", path).await;
    let name = format!("ws-{}", hosted.id);
    let expected = json!({ "pulled": ["langgraph"], "failed": [], "recreated": [name] });
    assert_eq!((reply.status, reply.json()), (200, expected));
    until("it restarts with the new image", async || {
        let condition = format!("runtime_image_digest = '{two}'");
        crate::fleet::count(&app, &hosted.id, &condition).await == 1
    })
    .await;
    hosted.comes_online().await;
    hosted.holds(&world, "two").await;

    // A second time there is nothing to do
    let reply = admin(&app, "POST", path).await;
    assert_eq!(reply.json()["recreated"], json!([]), "{}", reply.text);

    // When somebody decides on the older content
    pin(&app, &one).await;
    hosted.runs(&two).await;
    restart(&app, &hosted.id).await;
    hosted.comes_online().await;
    hosted.runs(&one).await;
    hosted.holds(&world, "one").await;

    // And then on one that cannot be had
    let three = world.registry.push("agent", "latest", "three").await;
    pin(&app, &three).await;
    world.registry.stop();
    let before = hosted.container(&world).await;
    let url = hosted.url().await;
    restart(&app, &hosted.id).await;
    until("the restart is declined", async || {
        let row = app.listed(&hosted.id).await.expect("a row");
        let error = row["last_sample_error"].as_str();
        error.is_some_and(|error| error.starts_with("restart declined: "))
            && row["status"] == "online"
    })
    .await;
    assert_eq!(hosted.container(&world).await, before);
    assert_eq!(hosted.url().await, url);
    wait_until_ready(&url).await;
    hosted.runs(&one).await;
    hosted.comes_online().await;

    // The way back needs nothing from the registry
    let path = "/admin/runtime-image-pins/langgraph/rollback";
    assert_eq!(admin(&app, "POST", path).await.json()["digest"], json!(one));
    restart(&app, &hosted.id).await;
    hosted.comes_online().await;
    assert_ne!(hosted.container(&world).await, before);
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_pull_is_heard_of_and_a_delete_ends_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let bytes = 4 * 1024 * 1024;
    (world.registry)
        .push_large("agent", "latest", "large", bytes)
        .await;
    let gate = Gate::before(&world.registry, 256 * 1024).await;
    let app = server(&world, &gate.reference("agent", "latest")).await;
    let headers = [("authorization", &*format!("Bearer {ADMIN}"))];
    let mut socket = Socket::open(&app, "/ws", &headers).await.expect("a socket");
    let id = app.create(json!({ "name": "dev", "tier": 2 })).await;
    let event = socket.wait_for("WORKSPACE_PROVISION_PROGRESS", &id).await;
    assert_eq!(event["payload"]["phase"], "pull", "{event}");
    gate.passed(64 * 1024).await;
    let reply = admin(&app, "DELETE", &format!("/workspaces/{id}?confirm=true")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    gate.is_left().await;
    let left = world
        .fixture
        .objects(Some(Uuid::parse_str(&id).expect("a UUID")));
    assert_eq!(left.await, [""; 0]);
    // The daemon may take a moment to let go of what it loaded.
    tokio::time::timeout(Duration::from_secs(60), app.shutdown())
        .await
        .expect("a shutdown");
}
