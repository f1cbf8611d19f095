//! Plugins as desired state: a workspace that starts gets what it should have.

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use molecule_core::Event;
use molecule_core::config::SignaturePolicy;
use molecule_tests::fake_plugins::PluginCall;
use molecule_tests::support::{Agent, seen, strict};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use crate::shelf::{Shelf, sha};

/// A key that nobody here signs with.
const A_KEY: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn server(engine: Engine, shelf: &Shelf) -> TestAppBuilder {
    strict(engine)
        .registry(shelf.registry())
        .config(|config| config.workspaces.restarts_per_minute = 1000)
}

fn shelve(shelf: &Shelf, digit: char, text: &str) {
    let files = [("plugin.yaml", "version: '1'\n"), ("rules/rule.md", text)];
    shelf.put("acme/careful", &sha(digit), &files);
}

/// A workspace that has a plugin at revision 1.
async fn with_plugin(app: &TestApp, shelf: &Shelf) -> Agent {
    shelve(shelf, '1', "first");
    shelf.set("acme/careful", "tag:v1", &sha('1'));
    let agent = Agent::online(app, json!({ "name": "one" })).await;
    install(app, &agent.id, "shelf://acme/careful#tag:v1").await;
    agent
}

async fn install(app: &TestApp, id: &str, source: &str) {
    let path = format!("/workspaces/{id}/plugins");
    let body = json!({ "source": source, "track": "none", "restart": false });
    let reply = app.post(&path, body).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Restarts a workspace and waits until its agent was started and is back.
async fn restart(app: &TestApp, id: &str) {
    let before = app.backend.starts_of(id).len();
    let path = format!("/workspaces/{id}/restart");
    let reply = app.post(&path, json!({})).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    eventually("it is started again", || async {
        app.backend.starts_of(id).len() > before && app.backend.runs(id)
    })
    .await;
    let agent = Agent::started(app, id.to_owned()).await;
    eventually("its agent is back", || async {
        agent.register(app).send().await.status == 200
    })
    .await;
    app.wait_for_status(id, "online").await;
}

/// The plugin as the workspace's list shows it, also when it is not there.
async fn listed(app: &TestApp, id: &str) -> Value {
    let path = format!("/workspaces/{id}/plugins?include=wanted");
    let reply = app.get(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()[0].clone()
}

/// Waits until the row says why the plugin was not delivered.
async fn wait_for_error(app: &TestApp, id: &str, error: Value) {
    eventually(&format!("the row says {error}"), || async {
        listed(app, id).await["delivery_error"] == error
    })
    .await;
}

fn rule(app: &TestApp, id: &str) -> Option<String> {
    app.backend.plugins.file(id, "careful", "rules/rule.md")
}

async fn count(app: &TestApp, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM workspace_plugins WHERE {condition}");
    app.database.count(&sql).await
}

/// Phases that the start of a workspace told about.
fn phases(events: &mut Receiver<Event>, id: &str) -> Vec<String> {
    seen(events, id)
        .into_iter()
        .filter(|(kind, _)| *kind == "WORKSPACE_PROVISION_PROGRESS")
        .map(|(_, payload)| payload["phase"].as_str().expect("a phase").to_owned())
        .collect()
}

on_both_engines! {
    async fn a_rebuilt_workspace_gets_its_plugin_again_exactly_as_it_was(engine: Engine) {
        // given a workspace whose storage is lost, and an upstream that moved since
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = with_plugin(&app, &shelf).await;
        shelve(&shelf, '2', "second");
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        app.backend.plugins.lose(&agent.id, "careful");
        let mut events = app.events();

        // when it starts
        restart(&app, &agent.id).await;

        // then it has what was installed, and no delivery into running compute was needed
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("first"));
        let fetched = shelf.fetches().pop().expect("a fetch");
        assert_eq!(fetched, format!("acme/careful#sha:{}", sha('1')));
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), 1, "the install");
        let marker = app.backend.plugins.marker(&agent.id, "careful");
        assert_eq!((&marker["sha"], &marker["name"]), (&json!(sha('1')), &json!("careful")));
        wait_for_error(&app, &agent.id, Value::Null).await;
        assert_eq!(listed(&app, &agent.id).await["tree_sha256"], marker["tree_sha256"]);
        eventually("the row names the instance", || async {
            count(&app, "delivered_to IS NOT NULL AND delivered_at IS NOT NULL").await == 1
        })
        .await;
        assert!(phases(&mut events, &agent.id).contains(&"plugins".to_owned()));
    }

    async fn what_is_there_is_not_fetched(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = with_plugin(&app, &shelf).await;
        let fetches = shelf.fetches().len();
        let mut events = app.events();

        restart(&app, &agent.id).await;

        assert_eq!(shelf.fetches().len(), fetches);
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("first"));
        assert!(phases(&mut events, &agent.id).is_empty());
        assert_eq!(count(&app, "delivery_error IS NULL").await, 1);
    }

    async fn a_plugin_that_cannot_be_had_fails_no_start_and_comes_with_a_later_one(engine: Engine) {
        // given a source that lost the revision
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = with_plugin(&app, &shelf).await;
        app.backend.plugins.lose(&agent.id, "careful");
        shelf.clear("acme/careful");

        // when the workspace starts, then it is online without it and the row says why
        restart(&app, &agent.id).await;
        wait_for_error(&app, &agent.id, json!("not_found")).await;
        assert_eq!(rule(&app, &agent.id), None);
        let row = listed(&app, &agent.id).await;
        assert_eq!((&row["name"], &row["installed"]), (&json!("careful"), &json!(false)));

        // when the source has it again, the next start brings it
        shelve(&shelf, '1', "first");
        restart(&app, &agent.id).await;
        wait_for_error(&app, &agent.id, Value::Null).await;
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("first"));
    }

    async fn what_nobody_knows_to_be_there_is_not_known_after_a_start_either(engine: Engine) {
        // given a plugin after a delivery that did not end
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = with_plugin(&app, &shelf).await;
        app.database.execute("UPDATE workspace_plugins SET delivered_to = NULL").await;

        // when a start finds some tree with a marker
        app.database.execute("UPDATE workspace_plugins SET delivery_error = 'timed_out'").await;
        restart(&app, &agent.id).await;
        wait_for_error(&app, &agent.id, Value::Null).await;

        // then that is not taken for the one of the row
        assert_eq!(count(&app, "delivered_to IS NULL").await, 1);
    }

    async fn a_start_that_does_not_count_writes_nothing_about_plugins(engine: Engine) {
        // given a start that waits for a source which hangs
        let shelf = Shelf::default();
        let app = server(engine, &shelf)
            .config(|config| config.workspaces.provision_deadline_secs = 9)
            .start()
            .await;
        let agent = with_plugin(&app, &shelf).await;
        app.backend.plugins.lose(&agent.id, "careful");
        shelf.set_fetching_hangs(true);
        let fetches = shelf.fetches().len();
        let path = format!("/workspaces/{}/restart", agent.id);
        assert_eq!(app.post(&path, json!({})).bearer(ADMIN).send().await.status, 200);
        eventually("it fetches", || async { shelf.fetches().len() > fetches }).await;

        // when another server takes it over
        let overtaken = "UPDATE workspaces SET provision_epoch = provision_epoch + 1";
        app.database.execute(overtaken).await;
        let done = "plugin_redeliveries_total{outcome=\"failed\"}";
        eventually("the source was given up", || async {
            app.get("/metrics").send().await.text.contains(done)
        })
        .await;
        let (database, _dir) = app.shutdown().await;

        // then the row says nothing of a start that nobody has
        let silent = "SELECT count(*) FROM workspace_plugins WHERE delivery_error IS NULL";
        assert_eq!(database.count(silent).await, 1);
    }

    async fn other_bytes_under_the_same_revision_are_refused(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = with_plugin(&app, &shelf).await;
        app.backend.plugins.lose(&agent.id, "careful");
        shelve(&shelf, '1', "something else");

        restart(&app, &agent.id).await;

        wait_for_error(&app, &agent.id, json!("changed")).await;
        assert_eq!(rule(&app, &agent.id), None);
    }

    async fn a_plugin_of_the_servers_own_folder_comes_as_it_is_now(engine: Engine) {
        // given a plugin from the folder of this server, which was edited since
        let app = server(engine, &Shelf::default()).start().await;
        let folder = app.dir.path().join("plugins/careful");
        std::fs::create_dir_all(folder.join("rules")).expect("folders");
        std::fs::write(folder.join("rules/rule.md"), "first").expect("a rule");
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        install(&app, &agent.id, "local://careful").await;
        let before = listed(&app, &agent.id).await["tree_sha256"].clone();
        std::fs::write(folder.join("rules/rule.md"), "edited").expect("a rule");

        // when what is there stays, nothing is brought
        restart(&app, &agent.id).await;
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("first"));

        // when it is lost, the folder's content is brought, and the row says which
        app.backend.plugins.lose(&agent.id, "careful");
        restart(&app, &agent.id).await;
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("edited"));
        wait_for_error(&app, &agent.id, Value::Null).await;
        let marker = app.backend.plugins.marker(&agent.id, "careful");
        assert_ne!(marker["tree_sha256"], before);
        let now = format!("tree_sha256 = {}", marker["tree_sha256"]).replace('"', "'");
        eventually("the row says which", || async { count(&app, &now).await == 1 }).await;
    }

    async fn what_an_organisation_does_not_allow_any_more_does_not_come_back(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = with_plugin(&app, &shelf).await;
        let path = format!("/orgs/{}/plugins/allowlist", agent.id);
        let body = json!({ "plugins": ["another"], "enabled_by": "somebody" });
        let reply = app.request("PUT", &path).json(body).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        app.backend.plugins.lose(&agent.id, "careful");
        let fetches = shelf.fetches().len();

        restart(&app, &agent.id).await;

        wait_for_error(&app, &agent.id, json!("not_allowed")).await;
        assert_eq!(rule(&app, &agent.id), None);
        assert_eq!(shelf.fetches().len(), fetches, "nor was it fetched");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_holds_a_start_up_for_a_part_of_its_time() {
    // given three plugins whose source hangs, and nine seconds for a start
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite, &shelf)
        .config(|config| config.workspaces.provision_deadline_secs = 9)
        .start()
        .await;
    let agent = with_plugin(&app, &shelf).await;
    for name in ["second", "third"] {
        shelf.put(&format!("acme/{name}"), &sha('1'), &[("rules/a.md", "a")]);
        shelf.set(&format!("acme/{name}"), "tag:v1", &sha('1'));
        install(&app, &agent.id, &format!("shelf://acme/{name}#tag:v1")).await;
    }
    for name in ["careful", "second", "third"] {
        app.backend.plugins.lose(&agent.id, name);
    }
    shelf.set_fetching_hangs(true);

    // when it starts, then it is online soon, without them
    let began = Instant::now();
    restart(&app, &agent.id).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}: it did not try");
    assert!(app.backend.plugins.names(&agent.id).is_empty());
    wait_for_error(&app, &agent.id, json!("timed_out")).await;
    let late = "delivery_error = 'timed_out'";
    assert_eq!(
        count(&app, late).await,
        3,
        "all within one part of the time"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_let_in_before_needs_no_signature_again() {
    // given a plugin that was installed before signatures were wanted
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite, &shelf).start().await;
    let agent = with_plugin(&app, &shelf).await;
    let backend = app.backend.clone();
    let (database, dir) = app.shutdown().await;
    let app = server(Engine::Sqlite, &shelf)
        .backend(backend)
        .config(|config| {
            config.plugins.require_signature = SignaturePolicy::Enforce;
            config.plugins.trusted_keys = vec![A_KEY.to_owned()];
        })
        .start_on(database, dir)
        .await;
    let path = format!("/workspaces/{}/plugins", agent.id);
    let body = json!({ "source": "shelf://acme/careful#tag:v1", "force": true });
    let reply = app.post(&path, body).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 422, "{}", reply.text);
    app.backend.plugins.lose(&agent.id, "careful");

    restart(&app, &agent.id).await;

    assert_eq!(rule(&app, &agent.id).as_deref(), Some("first"));
    wait_for_error(&app, &agent.id, Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_is_no_silence_of_the_start() {
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite, &shelf)
        .config(|config| {
            config.workspaces.provision_deadline_secs = 18;
            config.workspaces.provision_timeout_secs = Some(18);
            config.workspaces.provision_quiet_secs = 4;
        })
        .start()
        .await;
    app.backend.images.switch_on();
    let agent = with_plugin(&app, &shelf).await;
    app.backend.plugins.lose(&agent.id, "careful");
    shelf.set_fetching_hangs(true);

    restart(&app, &agent.id).await;

    wait_for_error(&app, &agent.id, json!("timed_out")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_came_with_an_install_must_still_be_good() {
    // given a plugin whose signature came with the request
    let shelf = Shelf::default();
    let pair = Ed25519KeyPair::generate().expect("a key");
    let key = format!("ed25519:{}", STANDARD.encode(pair.public_key().as_ref()));
    let enforced = |key: String| {
        server(Engine::Sqlite, &shelf).config(move |config| {
            config.plugins.require_signature = SignaturePolicy::Enforce;
            config.plugins.trusted_keys = vec![key];
        })
    };
    let plain = server(Engine::Sqlite, &shelf).start().await;
    let agent = with_plugin(&plain, &shelf).await;
    let digest = plain.backend.plugins.marker(&agent.id, "careful")["tree_sha256"].clone();
    let digest = digest.as_str().expect("a digest");
    let signature = STANDARD.encode(pair.sign(digest.as_bytes()).as_ref());
    let backend = plain.backend.clone();
    let (database, dir) = plain.shutdown().await;
    let app = enforced(key)
        .backend(backend.clone())
        .start_on(database, dir)
        .await;
    let path = format!("/workspaces/{}/plugins", agent.id);
    let body = json!({
        "source": "shelf://acme/careful#tag:v1", "signature": signature, "restart": false,
    });
    let reply = app.post(&path, body).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["unchanged"], true);
    assert_eq!(count(&app, "signature IS NOT NULL").await, 1);

    // when the workspace is rebuilt, then it has its plugin
    app.backend.plugins.lose(&agent.id, "careful");
    restart(&app, &agent.id).await;
    assert_eq!(rule(&app, &agent.id).as_deref(), Some("first"));
    wait_for_error(&app, &agent.id, Value::Null).await;

    // when the key is trusted no more, then it has not
    let (database, dir) = app.shutdown().await;
    let app = enforced(A_KEY.to_owned())
        .backend(backend)
        .start_on(database, dir)
        .await;
    app.backend.plugins.lose(&agent.id, "careful");
    restart(&app, &agent.id).await;
    wait_for_error(&app, &agent.id, json!("fetch_failed")).await;
    assert_eq!(rule(&app, &agent.id), None);
}
