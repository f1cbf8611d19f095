//! `/metrics`: the names of the contract, with values that mean something.

use std::time::Duration;

use molecule_tests::{Engine, TestApp, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::strict;
use crate::upstream::Upstream;

async fn text(app: &TestApp) -> String {
    app.get("/metrics").send().await.text
}

/// The value of the first series whose line has all these parts.
fn value(text: &str, parts: &[&str]) -> Option<f64> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| parts.iter().all(|part| line.contains(part)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_of_the_contract_is_there_with_its_type() {
    let app = strict(Engine::Sqlite).start().await;
    app.get("/health").send().await;
    let text = text(&app).await;
    for (name, kind) in [
        ("molecule_http_requests_total", "counter"),
        ("molecule_http_request_duration_seconds_total", "counter"),
        ("molecule_http_request_duration_seconds", "histogram"),
        ("molecule_websocket_connections_active", "gauge"),
        ("go_goroutines", "gauge"),
        ("go_memstats_alloc_bytes", "gauge"),
        ("go_memstats_sys_bytes", "gauge"),
        ("go_memstats_heap_inuse_bytes", "gauge"),
        ("go_gc_duration_seconds_total", "counter"),
    ] {
        let line = format!("# TYPE {name} {kind}");
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing in\n{text}"
        );
    }
    let of = |name: &str| value(&text, &[name]).expect("a value");
    assert!(of("go_goroutines ") >= 1.0);
    let mebibyte = 1024.0 * 1024.0;
    let (resident, heap) = (
        of("go_memstats_alloc_bytes "),
        of("go_memstats_heap_inuse_bytes "),
    );
    assert!(
        resident > mebibyte && heap > mebibyte && heap <= resident,
        "{heap} {resident}"
    );
    assert!(of("go_memstats_sys_bytes ") >= resident);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_templates_and_a_few_methods() {
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| {
            config.control_plane.upstream_url = Some(upstream.url.clone());
            config.server.canvas_proxy_url = Some(upstream.url.clone());
        })
        .start()
        .await;
    for n in 0..3 {
        app.get(&format!("/workspaces/guess-{n}")).send().await;
        app.get(&format!("/cp/orgs/guess-{n}")).send().await;
        app.get(&format!("/canvas-page-guess-{n}")).send().await;
        app.request(&format!("GUESS{n}"), "/cp/orgs").send().await;
    }
    app.get("/x/teapot").send().await;
    app.get("/health")
        .header("origin", "https://evil.example")
        .send()
        .await;
    app.get("/workspaces/").send().await;
    let text = text(&app).await;
    for (method, path, status) in [
        ("GET", "/workspaces/:id", "400"),
        ("GET", "/cp/*path", "200"),
        ("OTHER", "/cp/*path", "200"),
        ("GET", "unmatched", "200"),
        ("GET", "unmatched", "other"),
        ("GET", "unmatched", "301"),
        // What the shell itself refuses is measured, too.
        ("GET", "/health", "403"),
    ] {
        let labels = [
            "molecule_http_requests_total{".to_owned(),
            format!("method=\"{method}\""),
            format!("path=\"{path}\""),
            format!("status=\"{status}\""),
        ];
        let parts: Vec<_> = labels.iter().map(String::as_str).collect();
        assert!(
            value(&text, &parts).is_some_and(|v| v >= 1.0),
            "{labels:?} in\n{text}"
        );
    }
    assert!(!text.contains("guess") && !text.contains("GUESS"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_measured_when_it_ends() {
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| config.control_plane.upstream_url = Some(upstream.url.clone()))
        .start()
        .await;
    // DELETE, because nobody else in this process asks the control plane so.
    let series = ["method=\"DELETE\"", "path=\"/cp/*path\"", "status=\"200\""];
    let count = async || {
        let parts = [&["molecule_http_requests_total{"], &series[..]].concat();
        value(&text(&app).await, &parts).unwrap_or_default()
    };
    let before = count().await;
    let address = app.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = b"DELETE /cp/auth/events HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request).await.expect("write");
    let mut head = [0; 64];
    stream.read_exact(&mut head).await.expect("a head");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(count().await, before, "it has not ended");
    drop(stream);
    eventually("it is measured", || async { count().await > before }).await;
    let parts = [
        &["molecule_http_request_duration_seconds_total{"],
        &series[..],
    ]
    .concat();
    let seconds = value(&text(&app).await, &parts).expect("a sum");
    assert!(seconds >= 0.3, "{seconds}");
}
