//! What plugins must be before they are let in: pins, statements, signatures.

use std::os::unix::fs::symlink;
use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use molecule_core::config::SignaturePolicy;
use molecule_core::tree::Tree;
use molecule_hooks::TreeLimits;
use molecule_tests::Engine;
use molecule_tests::support::Agent;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::scripted::{PASSED, Scripted, answer, assert_answer, install, write};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digest of version 2 of these files, as a client makes it.
fn tree_digest(files: &[(&str, &str)]) -> String {
    let base = tempfile::tempdir().expect("a folder");
    for (path, content) in files {
        write(base.path(), path, content);
    }
    let into = tempfile::tempdir().expect("a folder");
    let tree = Tree::copy(base.path(), into, &TreeLimits::default()).expect("a tree");
    tree.digest().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_cannot_move_is_let_in_where_the_operator_wants_that() {
    let source = Scripted::default();
    source
        .files("fixed-good", &[("x", "")])
        .files("good", &[("x", "")]);
    source.files("unpinned-good", &[("x", "")]);
    let server = source.server(Engine::Sqlite).config(|config| {
        config.plugins.require_immutable_ref = true;
        config.plugins.allow_unpinned = true;
    });
    let app = server.start().await;
    write(app.dir.path(), "plugins/own/plugin.yaml", "");
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let mutable = "mutable test source: name a revision that cannot move. \
                   PLUGIN_REQUIRE_IMMUTABLE_REF=true refuses branches and tags";
    for (source, expected) in [
        ("test://good", (422, mutable)),
        ("test://unpinned-good", (422, mutable)),
        ("test://fixed-good", PASSED),
        ("local://own", PASSED),
    ] {
        let reply = install(&app, &agent, json!({ "source": source })).await;
        assert_answer(&reply, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_pinned_in_three_ways() {
    const FILES: &[(&str, &str)] = &[("plugin.yaml", "version: \"1\"\n"), ("rules/a.md", "a")];
    let source = Scripted::default();
    source
        .files("plain", FILES)
        .files("bare", &[("rules/a.md", "a")]);
    let (app, agent) = source.start().await;
    let manifest = hex(&Sha256::digest(FILES[0].1));
    let (tree, wrong) = (tree_digest(FILES), "0".repeat(64));
    let mismatch = |field: &str, given: &str, got: &str| {
        (
            422,
            format!("{field} mismatch: expected {given}, got {got}"),
        )
    };
    let passed = (PASSED.0, PASSED.1.to_owned());
    for (pins, expected) in [
        (json!({ "sha256": manifest }), passed.clone()),
        (json!({ "sha256": manifest.to_uppercase() }), passed.clone()),
        (json!({ "sha256": "" }), passed.clone()),
        (
            json!({ "sha256": wrong }),
            mismatch("sha256", &wrong, &manifest),
        ),
        (json!({ "sha256": "x" }), mismatch("sha256", "x", &manifest)),
        (json!({ "tree_sha256": tree }), passed.clone()),
        (
            json!({ "tree_sha256": wrong }),
            mismatch("tree_sha256", &wrong, &tree),
        ),
        (
            json!({ "sha256": manifest, "tree_sha256": tree }),
            passed.clone(),
        ),
        (
            json!({ "sha256": wrong, "tree_sha256": wrong }),
            mismatch("sha256", &wrong, &manifest),
        ),
    ] {
        let mut body = pins.clone();
        body["source"] = json!("test://plain");
        let reply = install(&app, &agent, body).await;
        assert_eq!(answer(&reply), expected, "{pins}");
    }
    let body = json!({ "source": "test://bare", "sha256": manifest });
    let reply = install(&app, &agent, body).await;
    assert_answer(
        &reply,
        (
            422,
            "sha256 check failed: plugin.yaml not found in staged plugin",
        ),
    );
    assert_eq!(reply.json()["source"], "test://bare");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_states_a_digest_must_have_it() {
    // given the digest of two files, as the reference makes it
    let stated = hex(&Sha256::digest(b".gitignore\0ignored\na.md\0rule"));
    let source = Scripted::default();
    let with = |statement: String| {
        move |folder: &Path| {
            write(folder, "a.md", "rule");
            write(folder, ".gitignore", "ignored\n");
            write(folder, "manifest.json", &statement);
        }
    };
    let wrong = "0".repeat(64);
    for (name, statement) in [
        ("right", json!({ "sha256": stated }).to_string()),
        (
            "upper",
            json!({ "sha256": stated.to_uppercase() }).to_string(),
        ),
        ("silent", json!({ "name": "x" }).to_string()),
        ("wrong", json!({ "sha256": wrong }).to_string()),
        ("number", json!({ "sha256": 1 }).to_string()),
        ("null", json!({ "sha256": null }).to_string()),
        ("list", "[]".to_owned()),
        ("broken", "{".to_owned()),
        ("empty", String::new()),
        ("endless", " ".repeat(2 << 20)),
    ] {
        source.tree(name, with(statement));
    }
    source.tree("folder", |folder| write(folder, "manifest.json/x", ""));
    let (app, agent) = source.start().await;
    for name in ["right", "upper", "silent"] {
        let reply = install(&app, &agent, json!({ "source": format!("test://{name}") })).await;
        assert_answer(&reply, PASSED);
    }
    for name in [
        "wrong", "number", "null", "list", "broken", "empty", "endless", "folder",
    ] {
        let reply = install(&app, &agent, json!({ "source": format!("test://{name}") })).await;
        assert_answer(&reply, (422, "plugin manifest integrity check failed"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_count_as_the_operator_says() {
    const FILES: &[(&str, &str)] = &[("plugin.yaml", ""), ("rules/a.md", "a")];
    let (pair, stranger) = (
        Ed25519KeyPair::generate().expect("a key"),
        Ed25519KeyPair::generate().expect("a key"),
    );
    let message = tree_digest(FILES);
    let sign = |pair: &Ed25519KeyPair| STANDARD.encode(pair.sign(message.as_bytes()).as_ref());
    let (good, bad) = (sign(&pair), sign(&stranger));
    let key = format!("ed25519:{}", STANDARD.encode(pair.public_key().as_ref()));
    let source = Scripted::default();
    source.files("unsigned", FILES);
    let signed = good.clone();
    // The signature is no part of what it signs
    source.tree("signed", move |folder| {
        FILES
            .iter()
            .for_each(|(path, content)| write(folder, path, content));
        write(folder, "plugin.minisig", &signed);
    });
    let forged = bad.clone();
    source.tree("forged", move |folder| {
        FILES
            .iter()
            .for_each(|(path, content)| write(folder, path, content));
        write(folder, "plugin.minisig", &forged);
    });
    source.tree("linked", |folder| {
        symlink("/etc/passwd", folder.join("plugin.minisig")).expect("a link");
    });
    let missing = (422, "signature check failed: the plugin is not signed");
    let untrusted = (
        422,
        "signature check failed: no trusted key made it for this tree",
    );
    let malformed = (422, "signature check failed: it is no signature");
    for (policy, expected) in [
        (SignaturePolicy::Off, [PASSED, PASSED, PASSED, PASSED]),
        (SignaturePolicy::Warn, [PASSED, PASSED, PASSED, PASSED]),
        (
            SignaturePolicy::Enforce,
            [missing, PASSED, untrusted, malformed],
        ),
    ] {
        let key = key.clone();
        let server = source.server(Engine::Sqlite).config(|config| {
            config.plugins.trusted_keys = vec![key];
            config.plugins.require_signature = policy;
        });
        let app = server.start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for (name, expected) in ["unsigned", "signed", "forged", "linked"]
            .into_iter()
            .zip(expected)
        {
            let reply = install(&app, &agent, json!({ "source": format!("test://{name}") })).await;
            assert_eq!(
                answer(&reply),
                (expected.0, expected.1.to_owned()),
                "{policy:?} {name}"
            );
        }
        // One that is sent along counts under every policy
        for (signature, expected) in [
            (&good, PASSED),
            (&bad, untrusted),
            (&"x".to_owned(), malformed),
        ] {
            let body = json!({ "source": "test://unsigned", "signature": signature });
            assert_answer(&install(&app, &agent, body).await, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_policies_that_make_no_sense_are_refused_at_the_start() {
    let mut config = molecule_core::Config::default();
    config.plugins.trusted_keys = vec![
        "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".to_owned(),
        "a-secret-in-the-wrong-place".to_owned(),
    ];
    let problems = config.validate().expect_err("a problem").to_string();
    assert!(
        problems.contains("plugins.trusted_keys (PLUGIN_TRUSTED_KEYS): entry 2 is no public key")
    );
    assert!(!problems.contains("a-secret"), "{problems}");
    config.plugins.trusted_keys.clear();
    config.plugins.require_signature = SignaturePolicy::Enforce;
    let problems = config.validate().expect_err("a problem").to_string();
    assert!(
        problems.contains("plugins.require_signature (PLUGIN_REQUIRE_SIGNATURE): enforce needs")
    );
}
