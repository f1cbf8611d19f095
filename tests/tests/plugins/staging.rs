//! Fetching plugins: every answer, every bomb, and nothing left behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use molecule_hooks::{FetchedPlugin, PluginSourceError};
use molecule_tests::support::Agent;
use molecule_tests::{ADMIN, Engine, TestDatabase, eventually};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::json;

use crate::scripted::{
    PASSED, Scripted, answer, assert_answer, hang, install, nothing_is_staged, staged, write,
};

const TOO_LARGE: (u16, &str) = (413, "staged plugin exceeds size limit");
const UNSUPPORTED: (u16, &str) = (422, "plugin tree contains unsupported file type");

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
        // Whether it names a revision is asked before what it names.
        ("github://owner", 422, github),
        ("github://owner#v1", 400, "invalid plugin source"),
        ("test://unpinned x", 422, unpinned),
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
        if status != 400 || error.starts_with("resolver") {
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
