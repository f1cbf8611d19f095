//! Plugins as archives, for agents that fetch them themselves.

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use futures_util::StreamExt;
use futures_util::future::join_all;
use molecule_tests::support::{Agent, sql_id};
use molecule_tests::{ADMIN, PATIENCE, TestApp, on_both_engines};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scripted::{Scripted, nothing_is_staged, write};

const FILES: &[(&str, &str)] = &[
    ("plugin.yaml", "version: \"1\"\n"),
    ("rules/a.md", "a rule"),
    (".gitignore", "x"),
    (".complete", "{}"),
];

/// An answer with its body as it came.
struct Raw {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Raw {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    #[track_caller]
    fn assert_error(&self, status: u16, error: &str) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(
            (self.status, body["error"].as_str()),
            (status, Some(error)),
            "{text}"
        );
        body
    }
}

/// Asks with a bearer and headers.
async fn ask(
    method: Method,
    app: &TestApp,
    path: &str,
    bearer: Option<&str>,
    headers: &[(&str, &str)],
) -> Raw {
    let client = reqwest::Client::builder().timeout(PATIENCE).build();
    let url = format!("{}{path}", app.url);
    let mut request = client.expect("a client").request(method, url);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("a reply");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("a body").to_vec();
    Raw {
        status,
        headers,
        body,
    }
}

fn path(agent: &Agent, name: &str) -> String {
    format!("/workspaces/{}/plugins/{name}/download", agent.id)
}

async fn get(app: &TestApp, agent: &Agent, name: &str, headers: &[(&str, &str)]) -> Raw {
    let path = format!("{}?source=test://{name}", path(agent, name));
    ask(Method::GET, app, &path, Some(&agent.token), headers).await
}

/// Asks for a path that a well-behaved client would tidy up first.
async fn as_written(app: &TestApp, path: &str, bearer: &str) -> String {
    let address = app.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("a reply");
    reply
}

/// An external workspace: its id and its token.
async fn external(app: &TestApp) -> Agent {
    let body = json!({ "name": "far", "external": true });
    let made = app
        .post("/workspaces", body)
        .bearer(ADMIN)
        .send()
        .await
        .json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Agent {
        id: text(&made["id"]),
        token: text(&made["connection"]["auth_token"]),
    }
}

/// Files of an archive by name, folders with an empty content.
async fn unpacked(archive: &[u8]) -> BTreeMap<String, String> {
    let mut plain = Vec::new();
    GzDecoder::new(archive)
        .read_to_end(&mut plain)
        .expect("gzip");
    let mut archive = tokio_tar::Archive::new(&plain[..]);
    let (mut entries, mut files) = (archive.entries().expect("tar"), BTreeMap::new());
    while let Some(entry) = entries.next().await {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut content = String::new();
        entry.read_to_string(&mut content).await.expect("text");
        files.insert(name, content);
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_comes_as_an_archive_that_says_what_it_is() {
    // given a plugin in the folder of the server
    let source = Scripted::default();
    let (app, agent) = source.start().await;
    for (path, content) in FILES {
        write(app.dir.path(), &format!("plugins/careful/{path}"), content);
    }
    // when its agent downloads it
    let reply = ask(
        Method::GET,
        &app,
        &path(&agent, "careful"),
        Some(&agent.token),
        &[],
    )
    .await;
    // then it gets the files, without what only matters at home
    assert_eq!(reply.status, 200);
    let files = unpacked(&reply.body).await;
    let expected = [
        ("plugin.yaml", FILES[0].1),
        ("rules/", ""),
        ("rules/a.md", FILES[1].1),
    ];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
    assert_eq!(files, BTreeMap::from(expected));
    // and is told what it got
    let digest = Sha256::digest(&reply.body);
    let (base64, hex) = (
        STANDARD.encode(digest),
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
    );
    for (header, expected) in [
        ("content-type", "application/gzip".to_owned()),
        (
            "content-disposition",
            "attachment; filename=\"careful.tar.gz\"".to_owned(),
        ),
        ("content-length", reply.body.len().to_string()),
        ("x-plugin-name", "careful".to_owned()),
        ("x-plugin-source", "local://careful".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
        ("digest", format!("sha-256={base64}")),
        ("repr-digest", format!("sha-256=:{base64}:")),
        ("etag", format!("\"{hex}\"")),
    ] {
        assert_eq!(reply.header(header), expected, "{header}");
    }
    assert_eq!(reply.header("x-plugin-tree-sha256").len(), 64);
    nothing_is_staged(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_tree_is_the_same_bytes_and_can_be_had_in_parts() {
    let source = Scripted::default();
    source.files("plain", FILES);
    let (app, agent) = source.start().await;
    let whole = get(&app, &agent, "plain", &[]).await;
    let again = get(&app, &agent, "plain", &[]).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.body, again.body);
    assert_eq!(whole.header("x-plugin-revision"), "r1");
    let (tag, length) = (whole.header("etag").to_owned(), whole.body.len());

    // One who has it already gets no body
    for list in [&tag, "*", &format!("\"other\", W/{tag}")] {
        let reply = get(&app, &agent, "plain", &[("if-none-match", list)]).await;
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{list}");
        assert_eq!(reply.header("etag"), tag);
    }
    let reply = get(&app, &agent, "plain", &[("if-none-match", "\"other\"")]).await;
    assert_eq!(reply.status, 200);

    // One who lost the connection goes on
    let (head, tail) = whole.body.split_at(20);
    for (range, part, said) in [
        ("bytes=0-19", head, format!("bytes 0-19/{length}")),
        (
            "bytes=20-",
            tail,
            format!("bytes 20-{}/{length}", length - 1),
        ),
        (
            "bytes=-5",
            &whole.body[length - 5..],
            format!("bytes {}-{}/{length}", length - 5, length - 1),
        ),
    ] {
        for same in [None, Some(("if-range", tag.as_str()))] {
            let headers: Vec<_> = [("range", range)].into_iter().chain(same).collect();
            let reply = get(&app, &agent, "plain", &headers).await;
            assert_eq!(
                (reply.status, reply.body.as_slice()),
                (206, part),
                "{range}"
            );
            assert_eq!(reply.header("content-range"), said);
            assert_eq!(reply.header("content-length"), part.len().to_string());
            assert_eq!(reply.header("etag"), tag);
        }
    }
    // unless it is something else by now, or they want what we do not serve
    let weak = format!("W/{tag}");
    for headers in [
        &[("range", "bytes=20-"), ("if-range", "\"other\"")][..],
        &[("range", "bytes=20-"), ("if-range", weak.as_str())],
        &[
            ("range", "bytes=20-"),
            ("if-range", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ],
        &[("range", "bytes=0-1,4-5")],
        &[("range", "lines=0-1")],
    ] {
        let reply = get(&app, &agent, "plain", headers).await;
        assert_eq!(
            (reply.status, reply.body.len()),
            (200, length),
            "{headers:?}"
        );
    }
    let reply = get(&app, &agent, "plain", &[("range", "bytes=99999-")]).await;
    reply.assert_error(416, "no such range of bytes");
    assert_eq!(reply.header("content-range"), format!("bytes */{length}"));

    // Who only asks is told the same without a body
    let path = format!("{}?source=test://plain", path(&agent, "plain"));
    let reply = ask(
        Method::HEAD,
        &app,
        &path,
        Some(&agent.token),
        &[("range", "bytes=1-2")],
    )
    .await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.header("content-length"), length.to_string());
    assert_eq!(reply.header("etag"), tag);
    nothing_is_staged(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_own_token_of_a_workspace_opens_it() {
    let source = Scripted::default();
    source.files("plain", FILES);
    let (app, agent) = source.start().await;
    let other = Agent::start(&app, json!({ "name": "two" })).await;
    let path = format!("{}?source=test://plain", path(&agent, "plain"));
    let with = |bearer: Option<String>| {
        let (app, path) = (&app, path.clone());
        async move { ask(Method::GET, app, &path, bearer.as_deref(), &[]).await }
    };
    let reply = with(None).await;
    reply.assert_error(401, "missing workspace auth token");
    for stranger in [&other.token, ADMIN, "nobody's"] {
        let reply = with(Some(stranger.to_owned())).await;
        reply.assert_error(401, "invalid workspace auth token");
    }
    assert_eq!(with(Some(agent.token.clone())).await.status, 200);
    // One without any token is open to whoever passes the outer gate
    let revoke = format!(
        "UPDATE workspace_auth_tokens SET revoked_at = created_at WHERE workspace_id = {}",
        sql_id(app.database.engine(), &other.id)
    );
    app.database.execute(&revoke).await;
    let path = format!("{}?source=test://plain", self::path(&other, "plain"));
    let reply = ask(Method::GET, &app, &path, Some(ADMIN), &[]).await;
    assert_eq!(reply.status, 200);
    let reply = ask(Method::GET, &app, &path, Some(&agent.token), &[]).await;
    reply.assert_error(401, "invalid workspace auth token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_parameters_are_checked_before_anything_is_fetched() {
    let source = Scripted::default();
    source.files("plain", FILES);
    let (app, agent) = source.start().await;
    for name in [
        "%2E", "%2e%2E", "..%2Fetc", "it's", "$(id)", "a%20b", "a%0Ab", "%00", ".staging", "a..b",
    ] {
        let reply = as_written(&app, &path(&agent, name), &agent.token).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{name}: {reply}");
        assert!(
            reply.ends_with(r#"{"error":"invalid plugin name"}"#),
            "{name}: {reply}"
        );
    }
    for (query, status, error) in [
        ("source=test://", 400, "invalid plugin source"),
        ("source=nobody://x", 400, "failed to resolve plugin source"),
        ("source=test://a%20b", 400, "invalid plugin source"),
        (
            "source=test://unpinned",
            422,
            "unpinned test source: name a revision. Set PLUGIN_ALLOW_UNPINNED=true to override",
        ),
        (
            "track=sometimes",
            400,
            "invalid track value \"sometimes\": expected 'none' | 'tag:vX.Y.Z' | 'tag:latest' | 'sha:<full>'",
        ),
    ] {
        let path = format!("{}?{query}", path(&agent, "plain"));
        let reply = ask(Method::GET, &app, &path, Some(&agent.token), &[]).await;
        reply.assert_error(status, error);
    }
    assert_eq!(source.begun.load(std::sync::atomic::Ordering::SeqCst), 0);
    // What brings another plugin than the one that was asked for is refused
    let path = format!("{}?source=test://plain", path(&agent, "other"));
    let reply = ask(Method::GET, &app, &path, Some(&agent.token), &[]).await;
    let text = "source resolved to plugin \"plain\" but URL requested \"other\"";
    let body = reply.assert_error(400, text);
    assert_eq!(
        (&body["resolved_name"], &body["requested_name"]),
        (&json!("plain"), &json!("other"))
    );
    let path = format!("/workspaces/{}/plugins/none/download", agent.id);
    let reply = ask(Method::GET, &app, &path, Some(&agent.token), &[]).await;
    reply.assert_error(404, "failed to fetch plugin from local");
    let reply = get(&app, &agent, "unknown", &[]).await;
    reply.assert_error(404, "failed to fetch plugin from test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_organisation_does_not_allow_is_not_even_fetched() {
    let source = Scripted::default();
    source.files("plain", FILES).files("other", FILES);
    let (app, agent) = source.start().await;
    let list = app
        .request("PUT", &format!("/orgs/{}/plugins/allowlist", agent.id))
        .bearer(ADMIN);
    let reply = list
        .json(json!({ "plugins": ["plain"], "enabled_by": "me" }))
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(get(&app, &agent, "plain", &[]).await.status, 200);
    let reply = get(&app, &agent, "other", &[]).await;
    reply.assert_error(403, "plugin \"other\" is not in the org allowlist");
    assert_eq!(source.begun.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_downloads_of_something_large_are_all_whole() {
    // given a plugin that hardly compresses
    let source = Scripted::default();
    source.tree("large", |folder| {
        let mut state = 1_u64;
        let noise: String = (0..2_000_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                char::from(33 + u8::try_from((state >> 33) % 90).unwrap_or_default())
            })
            .collect();
        write(folder, "noise", &noise);
    });
    let (app, agent) = source.start().await;
    // when more download it than may at once
    let all = (0..40).map(|_| get(&app, &agent, "large", &[]));
    let all = join_all(all).await;
    // then everybody gets the same
    for reply in &all {
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        assert_eq!(reply.body.len().to_string(), reply.header("content-length"));
        assert_eq!(reply.header("etag"), all[0].header("etag"));
        assert!(reply.body == all[0].body);
    }
    assert!(all[0].body.len() > 1_000_000);
    nothing_is_staged(&app).await;
}

on_both_engines! {
    async fn what_an_external_workspace_fetches_is_written_down(engine: Engine) {
        let source = Scripted::default();
        source.files("plain", FILES);
        let app = source.server(engine).start().await;
        let hosted = Agent::start(&app, json!({ "name": "near" })).await;
        let external = external(&app).await;
        let fetch = async |agent: &Agent, query: &str| {
            let path = format!("{}?source=test://plain{query}", path(agent, "plain"));
            ask(Method::GET, &app, &path, Some(&agent.token), &[]).await
        };
        let tracked = async |agent: &Agent| {
            let path = format!("/workspaces/{}/plugins?include=wanted", agent.id);
            let reply = app.get(&path).bearer(ADMIN).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            reply.json().as_array().expect("a list").clone()
        };
        // when an external workspace downloads a plugin, then it is tracked
        assert_eq!(fetch(&external, "&track=tag:v1").await.status, 200);
        let rows = tracked(&external).await;
        assert_eq!(rows.len(), 1);
        for (field, expected) in [
            ("name", "plain"),
            ("source", "test://plain"),
            ("tracked_ref", "tag:v1"),
            ("update_mode", "notify"),
            ("installed_sha", "r1"),
        ] {
            assert_eq!(rows[0][field], expected, "{field}");
        }
        // and goes on following what it did until it says something else
        assert_eq!(fetch(&external, "").await.status, 200);
        assert_eq!(tracked(&external).await[0]["tracked_ref"], "tag:v1");
        assert_eq!(fetch(&external, "&track=none").await.status, 200);
        assert_eq!(tracked(&external).await[0]["tracked_ref"], "none");
        // What a hosted workspace should have is not changed by looking at it
        assert_eq!(fetch(&hosted, "&track=tag:v1").await.status, 200);
        assert_eq!(tracked(&hosted).await, [Value::Null; 0]);
    }
}
