//! A source is tested through the registry, as the server uses it.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use molecule_hooks::testing::{PluginSourceContract, assert_plugin_source_contract};
use molecule_hooks::{
    FetchRequest, FetchedPlugin, HooksConfig, PluginSource, PluginSourceError, Registry, TreeLimits,
};
use plugin_source as _; // links the source; without this line there is none
use serde_json::json;
use tokio::task::JoinSet;

/// A tar file of regular files, packed.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    for (name, text) in files {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
        block[148..156].fill(b' ');
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        packed.write_all(&block).unwrap();
        packed.write_all(text.as_bytes()).unwrap();
        let padding = text.len().next_multiple_of(512) - text.len();
        packed.write_all(&vec![0; padding]).unwrap();
    }
    packed.write_all(&[0; 1024]).unwrap();
    packed.finish().unwrap()
}

/// A web server with some archives. Ends with what is returned second.
async fn server() -> (String, JoinSet<()>) {
    let good = archive(&[
        ("plugin.yaml", "version: '1'\n"),
        ("skills/a/SKILL.md", "x"),
    ]);
    let evil = archive(&[("../../etc/passwd", "x")]);
    let large = archive(&[("zeros", &"\0".repeat(1000))]);
    let moved = || async {
        (
            StatusCode::FOUND,
            [("location", "/careful-bash-1.0.0.tar.gz")],
        )
    };
    let file = |bytes: Vec<u8>| get(move || async { bytes });
    let router = Router::new()
        .route("/archives/careful-bash-1.0.0.tar.gz", file(good.clone()))
        .route("/archives/cut-1.0.0.tar.gz", file(good[..60].to_vec()))
        .route("/archives/evil-1.0.0.tar.gz", file(evil))
        .route("/archives/large-1.0.0.tar.gz", file(large))
        .route("/archives/page-1.0.0.tar.gz", file(b"<html>".repeat(200)))
        .route("/archives/moved-1.0.0.tar.gz", get(moved))
        .route(
            "/archives/broken-1.0.0.tar.gz",
            get(|| async { StatusCode::BAD_GATEWAY }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/archives/", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, serving)
}

fn source(url: &str) -> Arc<dyn PluginSource> {
    let config = HooksConfig::new().with_section("plugin-source", json!({ "url": url }));
    let registry = Registry::from_linked(&config).unwrap();
    registry.sources().remove(0)
}

async fn fetch(source: &dyn PluginSource, spec: &str) -> Result<FetchedPlugin, PluginSourceError> {
    let into = tempfile::tempdir().unwrap();
    let limits = TreeLimits::default().with_bytes(500);
    let request = FetchRequest::new(spec, into.path(), limits);
    source.fetch(request).await
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (url, _serving) = server().await;
    let contract = PluginSourceContract::new("plugin-source")
        .section(json!({ "url": url }))
        .spec("careful-bash@1.0.0", "careful-bash")
        .missing("careful-bash@2.0.0")
        .invalid("../careful-bash@1.0.0")
        .invalid("careful-bash@1.0.0#sha256:123")
        .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"));
    assert_plugin_source_contract(contract).await;
}

#[tokio::test]
async fn an_archive_is_known_by_its_digest() {
    let (url, _serving) = server().await;
    let source = source(&url);
    let fetched = fetch(&*source, "careful-bash@1.0.0").await.unwrap();
    let revision = fetched.revision.unwrap();
    let pinned = source.pinned_to("careful-bash@1.0.0", &revision);
    assert!(source.is_immutable(&pinned) && !source.is_immutable("careful-bash@1.0.0"));
    let again = fetch(&*source, &pinned).await.unwrap();
    assert_eq!(again.revision, Some(revision));
    let other = format!("careful-bash@1.0.0#sha256:{}", "0".repeat(64));
    let error = fetch(&*source, &other).await.unwrap_err();
    assert!(error.to_string().contains("another one"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_is_told_by_its_kind() {
    let (url, _serving) = server().await;
    let source = source(&url);
    let error = fetch(&*source, "evil@1.0.0").await.unwrap_err();
    assert!(
        matches!(error, PluginSourceError::Unsupported(_)),
        "{error}"
    );
    let error = fetch(&*source, "large@1.0.0").await.unwrap_err();
    assert!(matches!(error, PluginSourceError::TooLarge(_)), "{error}");
    let error = fetch(&*source, "missing@1.0.0").await.unwrap_err();
    assert!(matches!(error, PluginSourceError::NotFound(_)), "{error}");
    for name in ["cut", "page", "moved", "broken"] {
        let error = fetch(&*source, &format!("{name}@1.0.0")).await.unwrap_err();
        assert!(
            matches!(error, PluginSourceError::Failed(_)),
            "{name}: {error}"
        );
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[test]
fn without_a_url_there_is_no_source() {
    let registry = Registry::from_linked(&HooksConfig::new()).unwrap();
    assert!(registry.sources().is_empty());
    assert_eq!(registry.skipped(), ["plugin-source"]);
    for url in ["", "ftp://host/x", "plugins.example.org"] {
        let config = HooksConfig::new().with_section("plugin-source", json!({ "url": url }));
        let error = Registry::from_linked(&config).unwrap_err().to_string();
        assert!(
            error.contains("plugin source \"plugin-source\": url must be"),
            "{error}"
        );
    }
}
