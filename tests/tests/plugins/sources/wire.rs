//! Sources as clients of the server see them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use molecule_hooks::{
    FetchRequest, FetchedPlugin, HooksConfig, PluginSource, PluginSourceError, Registry,
};
use molecule_tests::git_server::{Content, Fault, GitServer};
use molecule_tests::{Engine, TestApp};
use plugin_source as _; // links the source of the example
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::ground::{agent, install, installed, server};

async fn schemes(app: &TestApp) -> Value {
    app.get("/plugins/sources").send().await.json()["schemes"].take()
}

/// A web server with one archive.
async fn archives() -> (String, JoinSet<()>) {
    let mut tar = tokio_tar::Builder::new(Vec::new());
    for (name, text) in [
        ("plugin.yaml", "version: '1'\n"),
        ("rules/a.md", "be careful"),
    ] {
        let mut header = tokio_tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let added = tar.append_data(&mut header, name, text.as_bytes()).await;
        added.expect("an entry");
    }
    let bytes = tar.into_inner().await.expect("an archive");
    let router = Router::new().route("/careful-1.0.0.tar.gz", get(move || async { bytes }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    (url, serving)
}

#[tokio::test]
async fn the_source_of_a_hook_crate_is_listed_and_installed_from() {
    // given a server with the source of the example and its section
    let (url, _serving) = archives().await;
    let config = HooksConfig::new().with_section("plugin-source", json!({ "url": url }));
    let registry = Registry::from_linked(&config).expect("a registry");
    let app = server(Engine::Sqlite).registry(registry).start().await;
    assert_eq!(schemes(&app).await, json!(["archive", "github", "local"]));
    let agent = agent(&app).await;

    // when a plugin of it is installed
    let answer = installed(&app, &agent.id, "archive://careful@1.0.0").await;

    // then it is delivered and known by its digest
    assert_eq!(answer["plugin"], "careful");
    let rules = app.backend.plugins.file(&agent.id, "careful", "rules/a.md");
    assert_eq!(rules.as_deref(), Some("be careful"));
    let digest = answer["installed_sha"].as_str().expect("a digest");
    let pinned = format!("archive://careful@1.0.0#sha256:{digest}");
    assert_eq!(installed(&app, &agent.id, &pinned).await["unchanged"], true);
    for (source, status) in [
        ("archive://careful@2.0.0", 404),
        ("archive://careful", 400),
        ("Archive://careful@1.0.0", 400),
    ] {
        let reply = install(&app, &agent.id, json!({ "source": source })).await;
        assert_eq!(reply.status, status, "{source}: {}", reply.text);
    }
}

/// Answers to `local`.
struct OurLocal;

#[async_trait]
impl PluginSource for OurLocal {
    fn scheme(&self) -> &str {
        "local"
    }

    fn check(&self, _: &str) -> Result<(), PluginSourceError> {
        Ok(())
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        let written = std::fs::write(request.destination.join("ours"), "ours");
        written.map_err(|error| PluginSourceError::Failed(error.to_string()))?;
        Ok(FetchedPlugin::new(request.spec))
    }
}

#[tokio::test]
async fn a_later_source_of_a_scheme_takes_the_place_of_ours() {
    let registry = Registry::new();
    registry.register_source(Arc::new(OurLocal));
    let app = server(Engine::Sqlite).registry(registry).start().await;
    assert_eq!(schemes(&app).await, json!(["github", "local"]));
    let agent = agent(&app).await;
    installed(&app, &agent.id, "whatever").await;
    let file = app.backend.plugins.file(&agent.id, "whatever", "ours");
    assert_eq!(file.as_deref(), Some("ours"));
}

#[tokio::test]
async fn what_is_wrong_with_a_repository_is_a_status_and_no_detail() {
    // given a git host with all sorts of repositories
    let (git, elsewhere) = (GitServer::start().await, GitServer::start().await);
    let app = server(Engine::Sqlite)
        .config(|config| {
            config.plugins.github_url = git.url();
            config.plugins.install_timeout_secs = 5;
            config.plugins.max_dir_bytes = 10_000;
        })
        .start()
        .await;
    let agent = agent(&app).await;
    let large = "x".repeat(20_000);
    for (name, content) in [
        ("good", Content::Text("be careful")),
        ("links", Content::Link("/proc/self/environ")),
        ("large", Content::Text(&large)),
        ("hangs", Content::Text("")),
        ("broken", Content::Text("")),
        ("private", Content::Text("")),
        ("moved", Content::Text("")),
    ] {
        let repository = git.repository(&format!("acme/{name}"));
        repository.commit(&[("rules/a.md", content)]);
        repository.tag("v1");
    }
    git.set_fault("acme/hangs", Fault::Hangs);
    git.set_fault("acme/broken", Fault::Says(503));
    git.set_fault("acme/private", Fault::Says(401));
    git.set_fault("acme/moved", Fault::RedirectsTo(elsewhere.url()));

    // when each is installed, then the answer is that of the contract
    let fetch_failed = "failed to fetch plugin from github";
    for (spec, status, error) in [
        (
            "acme/links#v1",
            422,
            "plugin tree contains unsupported file type",
        ),
        ("acme/large#v1", 413, "staged plugin exceeds size limit"),
        ("acme/hangs#v1", 504, fetch_failed),
        ("acme/broken#v1", 502, fetch_failed),
        ("acme/private#v1", 404, fetch_failed),
        ("acme/missing#v1", 404, fetch_failed),
        ("acme/good#v2", 404, fetch_failed),
        ("acme/moved#v1", 502, fetch_failed),
    ] {
        let source = format!("github://{spec}");
        let reply = install(&app, &agent.id, json!({ "source": source })).await;
        assert_eq!(reply.status, status, "{spec}: {}", reply.text);
        assert_eq!(reply.json()["error"], error, "{spec}");
        assert_eq!(reply.json()["source"], source);
        let host = git.url().replace("http://", "");
        assert!(
            !reply.text.contains(&host) && !reply.text.contains("fatal"),
            "{}",
            reply.text
        );
    }
    let unpinned = json!({ "source": "github://acme/good" });
    assert_eq!(install(&app, &agent.id, unpinned).await.status, 422);
    assert!(elsewhere.asked().is_empty());

    // and nothing is left of them
    let answer = installed(&app, &agent.id, "github://acme/good#v1").await;
    let head = git.repository("acme/good").head();
    assert_eq!(answer["installed_sha"], head);
    let fetches = app.dir.path().join("fetches");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while std::fs::read_dir(&fetches)
        .expect("a folder")
        .next()
        .is_some()
    {
        assert!(tokio::time::Instant::now() < deadline, "something is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
