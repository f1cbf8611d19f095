//! Fetching and checking plugins: every answer, every bomb, and nothing left behind.
//!
//! The workspace of these tests cannot take plugins, so a plugin that passes every check
//! ends with `workspace container not running`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use molecule_core::config::SignaturePolicy;
use molecule_core::tree::Tree;
use molecule_hooks::{FetchedPlugin, PluginSourceError, TreeLimits};
use molecule_tests::support::Agent;
use molecule_tests::{ADMIN, Engine, Reply, TestDatabase, eventually};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::scripted::{Scripted, hang, install, nothing_is_staged, staged, write};

/// What a plugin gets that passed every check.
const PASSED: (u16, &str) = (503, "workspace container not running");
const TOO_LARGE: (u16, &str) = (413, "staged plugin exceeds size limit");
const UNSUPPORTED: (u16, &str) = (422, "plugin tree contains unsupported file type");

fn answer(reply: &Reply) -> (u16, String) {
    (reply.status, reply.error())
}

#[track_caller]
fn assert_answer(reply: &Reply, expected: (u16, &str)) {
    assert_eq!(
        answer(reply),
        (expected.0, expected.1.to_owned()),
        "{}",
        reply.text
    );
}

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
async fn every_refusal_has_its_answer_and_leaves_nothing() {
    // given a source with every kind of trouble
    let source = Scripted::default();
    source
        .files("good", &[("plugin.yaml", "version: \"1\"")])
        .files("fixed-good", &[("plugin.yaml", "")])
        .files("no-manifest", &[("x", "")])
        .on("odd-name", |_| async {
            Ok(FetchedPlugin::new("../../etc"))
        })
        .on("hidden", |_| async { Ok(FetchedPlugin::new(".staging")) })
        .on("broken", |_| async {
            Err(PluginSourceError::Failed("secret-cause".into()))
        })
        .on("late", |_| async {
            Err(PluginSourceError::TimedOut("secret-cause".into()))
        })
        .on("huge", |_| async {
            Err(PluginSourceError::TooLarge("secret-cause".into()))
        })
        .on("linked", |_| async {
            Err(PluginSourceError::Unsupported("secret-cause".into()))
        })
        .on("confused", |_| async {
            Err(PluginSourceError::InvalidSpec("secret-cause".into()))
        })
        .on("panics", |_| async { panic!("on purpose") });
    let (app, agent) = source.start().await;
    let unpinned =
        "unpinned test source: name a revision. Set PLUGIN_ALLOW_UNPINNED=true to override";
    let github = "unpinned github source: append a tag or commit SHA (e.g. \
                  \"github://owner/repo#v1.2.0\"). Set PLUGIN_ALLOW_UNPINNED=true to override";
    let failed = "failed to fetch plugin from test";
    for (source, status, error) in [
        ("test://", 400, "invalid plugin source"),
        ("nobody://x", 400, "failed to resolve plugin source"),
        ("Test://good", 400, "failed to resolve plugin source"),
        ("local://../etc", 400, "invalid plugin name"),
        ("local://UPPER", 400, "invalid plugin name"),
        ("$(id)", 400, "invalid plugin name"),
        ("test://a b", 400, "invalid plugin source"),
        ("test://unpinned", 422, unpinned),
        ("github://owner/repo", 422, github),
        (
            "local://nothing-here",
            404,
            "failed to fetch plugin from local",
        ),
        ("test://nothing", 404, failed),
        ("test://broken", 502, failed),
        ("test://panics", 502, failed),
        ("test://late", 504, failed),
        ("test://huge", TOO_LARGE.0, TOO_LARGE.1),
        ("test://linked", UNSUPPORTED.0, UNSUPPORTED.1),
        ("test://confused", 400, "invalid plugin source"),
        (
            "test://odd-name",
            400,
            "resolver returned invalid plugin name",
        ),
        (
            "test://hidden",
            400,
            "resolver returned invalid plugin name",
        ),
        ("test://good", PASSED.0, PASSED.1),
    ] {
        // when it is installed
        let reply = install(&app, &agent, json!({ "source": source })).await;
        // then the answer is the documented one, and says nothing more
        assert_eq!(
            answer(&reply),
            (status, error.to_owned()),
            "{source}: {}",
            reply.text
        );
        assert!(!reply.text.contains("secret-cause"), "{}", reply.text);
        assert!(
            !reply
                .text
                .contains(app.dir.path().to_str().expect("a path"))
        );
        let named = reply.json()["source"].as_str().map(str::to_owned);
        if ![400, 503].contains(&status) || error.starts_with("resolver") {
            assert_eq!(named.as_deref(), Some(source), "{}", reply.text);
        }
        if error == "failed to resolve plugin source" {
            let schemes = json!(["github", "local", "test"]);
            assert_eq!(reply.json()["available_schemes"], schemes);
        }
    }
    nothing_is_staged(&app).await;
    assert_eq!(source.working.load(Ordering::SeqCst), 0);
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
async fn trees_of_strangers_are_refused_for_what_they_hold() {
    type Make = fn(&Path);
    let bad: [(&str, Make, (u16, &str), &str); 14] = [
        (
            "environ",
            |f| symlink("/proc/self/environ", f.join("x.md")).expect("a link"),
            UNSUPPORTED,
            "x.md",
        ),
        (
            "folder-link",
            |f| symlink("/", f.join("skills")).expect("a link"),
            UNSUPPORTED,
            "skills",
        ),
        (
            "inner-link",
            |f| {
                write(f, "AGENTS.md", "x");
                symlink("AGENTS.md", f.join("CLAUDE.md")).expect("a link");
            },
            UNSUPPORTED,
            "CLAUDE.md",
        ),
        (
            "manifest-link",
            |f| symlink("/etc/passwd", f.join("plugin.yaml")).expect("a link"),
            UNSUPPORTED,
            "plugin.yaml",
        ),
        (
            "fifo",
            |f| mkfifoat(CWD, f.join("pipe"), Mode::RUSR).expect("a FIFO"),
            UNSUPPORTED,
            "pipe",
        ),
        (
            "socket",
            |f| drop(UnixListener::bind(f.join("s")).expect("a socket")),
            UNSUPPORTED,
            "s",
        ),
        (
            "newline",
            |f| write(f, "a\nb", ""),
            (422, "plugin tree contains an invalid file name"),
            r"a\nb",
        ),
        (
            "backslash",
            |f| write(f, r"..\x", ""),
            (422, "plugin tree contains an invalid file name"),
            r"..\\x",
        ),
        (
            "case",
            |f| {
                write(f, "Rules/a.md", "");
                write(f, "rules/a.md", "");
            },
            (422, "plugin tree contains an invalid file name"),
            "",
        ),
        (
            "deep",
            |f| write(f, &format!("{}x", "d/".repeat(40)), ""),
            TOO_LARGE,
            "",
        ),
        (
            "many",
            |f| (0..300).for_each(|n| write(f, &n.to_string(), "")),
            TOO_LARGE,
            "",
        ),
        (
            "large",
            |f| write(f, "x", &"x".repeat(70_000)),
            TOO_LARGE,
            "",
        ),
        (
            "sparse",
            |f| {
                let file = fs::File::create(f.join("x")).expect("a file");
                file.set_len(1 << 40).expect("a long file");
            },
            TOO_LARGE,
            "",
        ),
        (
            "ignore-link",
            |f| symlink("/etc/passwd", f.join(".pluginignore")).expect("a link"),
            UNSUPPORTED,
            ".pluginignore",
        ),
    ];
    let source = Scripted::default();
    for (name, make, ..) in bad {
        source.tree(name, make);
    }
    source.tree("odd-but-fine", |f| {
        for name in ["$(id)", "a b", "it's", "%2E", "-rf", "\"q\"", "*"] {
            write(f, name, "data");
        }
        fs::hard_link(f.join("a b"), f.join("linked")).expect("a link");
        let mode = fs::Permissions::from_mode(0o6777);
        fs::set_permissions(f.join("a b"), mode).expect("a mode");
        symlink("/etc/passwd", f.join("left-out")).expect("a link");
        write(f, ".pluginignore", "left-out");
    });
    let server = source.server(Engine::Sqlite).config(|config| {
        config.plugins.max_dir_bytes = 65_536;
        config.plugins.max_entries = 200;
    });
    let app = server.start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    for (name, _, expected, path) in bad {
        let raw = format!("test://{name}");
        let reply = install(&app, &agent, json!({ "source": raw })).await;
        assert_answer(&reply, expected);
        assert_eq!(reply.json()["source"], raw.as_str());
        if !path.is_empty() {
            assert_eq!(reply.json()["path"], path, "{}", reply.text);
        }
    }
    let reply = install(&app, &agent, json!({ "source": "test://odd-but-fine" })).await;
    assert_answer(&reply, PASSED);
    nothing_is_staged(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_brings_too_much_is_stopped_while_it_works() {
    // given sources that never stop writing
    let source = Scripted::default();
    source.on("bytes", |folder| async move {
        loop {
            use std::io::Write;
            let file = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(folder.join("x"));
            if file
                .and_then(|mut file| file.write_all(&[0; 16 * 1024]))
                .is_err()
            {
                return hang().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    source.on("files", |folder| async move {
        for number in 0_u64.. {
            if fs::write(folder.join(number.to_string()), "").is_err() {
                return hang().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        hang().await
    });
    source.on("clone", |folder| async move {
        write(&folder, ".git/objects/pack/tmp", "");
        let file = fs::File::create(folder.join(".git/objects/pack/tmp"));
        file.and_then(|file| file.set_len(8 << 20))
            .expect("a long file");
        hang().await
    });
    let server = source.server(Engine::Sqlite).config(|config| {
        config.plugins.max_dir_bytes = 1 << 20;
        config.plugins.max_entries = 500;
    });
    let app = server.start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    for spec in ["bytes", "files", "clone"] {
        // when one is installed
        let reply = install(&app, &agent, json!({ "source": format!("test://{spec}") })).await;
        // then it is stopped and everything is removed
        assert_answer(&reply, TOO_LARGE);
        assert_eq!(source.working.load(Ordering::SeqCst), 0, "{spec}");
        nothing_is_staged(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_ends_at_the_deadline() {
    let source = Scripted::default();
    source.on("hangs", |_| hang());
    let server = source.server(Engine::Sqlite);
    let server = server.config(|config| config.plugins.install_timeout_secs = 1);
    let app = server.start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let reply = install(&app, &agent, json!({ "source": "test://hangs" })).await;
    assert_answer(&reply, (504, "failed to fetch plugin from test"));
    assert_eq!(reply.json()["source"], "test://hangs");
    assert_eq!(source.working.load(Ordering::SeqCst), 0);
    nothing_is_staged(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_what_only_it_wanted() {
    // given a download that hangs
    let source = Scripted::default();
    source.on("hangs", |folder| async move {
        write(&folder, "x", "half");
        hang().await
    });
    let (app, agent) = source.start().await;
    let path = format!(
        "/workspaces/{}/plugins/hangs/download?source=test://hangs",
        agent.id
    );
    let request = app.get(&path).bearer(&agent.token);
    let asking = tokio::spawn(async move { request.send().await });
    eventually("the source works", || async {
        source.working.load(Ordering::SeqCst) == 1
    })
    .await;
    assert!(!staged(&app).is_empty());
    // when its client leaves
    asking.abort();
    // then the source ends, and what it brought goes
    eventually("the source ends", || async {
        source.working.load(Ordering::SeqCst) == 0
    })
    .await;
    nothing_is_staged(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_folder_for_staging_nothing_is_fetched() {
    let source = Scripted::default();
    source.files("good", &[("x", "")]);
    let (app, agent) = source.start().await;
    // given something else in the place of the folder
    let folder = app.dir.path().join("plugin-staging");
    let _ = fs::remove_dir_all(&folder);
    fs::write(&folder, "a file").expect("a file");
    let reply = install(&app, &agent, json!({ "source": "test://good" })).await;
    assert_answer(&reply, (500, "failed to create staging dir"));
    assert_eq!(source.begun.load(Ordering::SeqCst), 0);
    // when it is gone, all is well again
    fs::remove_file(&folder).expect("removed");
    let reply = install(&app, &agent, json!({ "source": "test://good" })).await;
    assert_answer(&reply, PASSED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_server_left_is_removed_and_a_living_one_keeps_its_own() {
    let source = Scripted::default();
    source.on("hangs", |_| hang());
    let (app, agent) = source.start().await;
    // given a server that stages something, and what another one left
    let path = format!(
        "/workspaces/{}/plugins/hangs/download?source=test://hangs",
        agent.id
    );
    let request = app.get(&path).bearer(&agent.token);
    let asking = tokio::spawn(async move { request.send().await });
    eventually("something is staged", || async { !staged(&app).is_empty() }).await;
    let mine = staged(&app);
    let left = app.dir.path().join("plugin-staging/run-dead");
    write(&left, "tree/secret", "x");
    fs::write(left.with_extension("lock"), "").expect("a file");
    // when a third one starts with the same folder
    let (database, dir) = (
        TestDatabase::create(Engine::Sqlite).await,
        tempfile::tempdir().expect("a folder"),
    );
    let shared = app.dir.path().join("plugin-staging");
    symlink(shared, dir.path().join("plugin-staging")).expect("a link");
    let other = source.server(Engine::Sqlite).start_on(database, dir).await;
    // then the leftover goes
    eventually("the leftover is removed", || async { !left.exists() }).await;
    assert!(!left.with_extension("lock").exists());
    assert_eq!(staged(&app), mine);
    asking.abort();
    other.shutdown().await;
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
async fn the_registry_is_listed_for_everybody() {
    let source = Scripted::default();
    let (app, _) = source.start().await;
    // given no folder yet
    let list = |query: &'static str| {
        let request = app.get(&format!("/plugins{query}"));
        async move {
            let reply = request.send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            let Value::Array(list) = reply.json() else {
                panic!("a list: {}", reply.text);
            };
            list
        }
    };
    assert!(list("").await.is_empty());
    // when there are plugins, a hook crate, and what is none of both
    let registry = app.dir.path().join("plugins");
    write(
        &registry,
        "zeta/plugin.yaml",
        "version: \"2\"\nruntimes: [claude-code]\ntags: [a, 1]",
    );
    write(
        &registry,
        "alpha/plugin.yaml",
        "name: other\nversion: 1.0\nskills: [s]",
    );
    write(&registry, "beta/plugin.yaml", "runtimes: [langgraph]");
    write(&registry, "crate/Cargo.toml", "");
    write(&registry, "broken/plugin.yaml", "{{{");
    write(&registry, "bad name/plugin.yaml", "");
    write(&registry, ".hidden/plugin.yaml", "");
    write(app.dir.path(), "secret/plugin.yaml", "author: nobody");
    symlink(app.dir.path().join("secret"), registry.join("linked")).expect("a link");
    // then they are listed by name, with what their manifests say
    let names = |list: &[Value]| -> Vec<String> {
        list.iter()
            .map(|row| row["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let all = list("").await;
    assert_eq!(names(&all), ["alpha", "beta", "broken", "crate", "zeta"]);
    assert_eq!(
        all[0],
        json!({ "name": "alpha", "version": "", "description": "", "author": "", "tags": [],
                "skills": ["s"], "runtimes": [] })
    );
    assert_eq!(all[4]["tags"], json!(["a"]));
    assert_eq!(
        names(&list("?runtime=claude_code").await),
        ["alpha", "broken", "crate", "zeta"]
    );
    assert_eq!(
        names(&list("?runtime=lang-graph").await),
        ["alpha", "broken", "crate"]
    );
    assert_eq!(names(&list("?runtime=").await).len(), 5);
    // And the sources too
    let reply = app.get("/plugins/sources").send().await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({ "schemes": ["github", "local", "test"] }))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_registry_is_bounded_and_holds_up_nobody() {
    let source = Scripted::default();
    let (app, _) = source.start().await;
    let registry = app.dir.path().join("plugins");
    for number in 0..6_000 {
        fs::create_dir_all(registry.join(format!("p{number:05}"))).expect("a folder");
    }
    let started = Instant::now();
    let lists = (0..8).map(|_| app.get("/plugins").send());
    let lists = futures_util::future::join_all(lists).await;
    let took = started.elapsed();
    for reply in lists {
        assert_eq!(reply.json().as_array().map(Vec::len), Some(5_000));
    }
    assert!(took < Duration::from_secs(60), "{took:?}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_stage_like_agents() {
    let source = Scripted::default();
    source.files("good", &[("x", "")]);
    let (app, agent) = source.start().await;
    let path = format!("/workspaces/{}/plugins", agent.id);
    let request = app
        .post(&path, json!({ "source": "test://good" }))
        .bearer(ADMIN);
    assert_answer(&request.send().await, PASSED);
}
