//! Hosts and repositories that mean harm, or cannot help it.

use std::time::Duration;

use molecule_hooks::{FetchRequest, PluginRef, PluginSource, PluginSourceError, TreeLimits};
use molecule_tests::git_server::{Content, Fault, GitServer};

use super::{World, assert_failed, assert_not_found, files};

#[tokio::test]
async fn a_repository_that_moves_meanwhile_gives_the_commit_that_was_looked_up() {
    for old_protocol in [false, true] {
        // given a tag that moves right after it was looked up
        let world = World::new().await;
        world.server.set_old_protocol(old_protocol);
        let first = world.rules();
        let rules = world.server.repository("acme/rules");
        world.server.after_next_lookup("acme/rules", move || {
            rules.commit(&[("plugin.yaml", Content::Text("version: two\n"))]);
            rules.tag("v1.0.0");
        });

        // when it is fetched, then it is one of the two, whole, and says which
        let fetched = world.fetch("acme/rules#v1.0.0").await.unwrap();
        let rules = world.server.repository("acme/rules");
        let second = rules.head();
        let text = fetched.text("plugin.yaml");
        match fetched.plugin.revision {
            Some(commit) if commit == first => assert_eq!(text, "version: one\n"),
            Some(commit) if commit == second => assert_eq!(text, "version: two\n"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_host_that_gives_out_another_commit_is_refused() {
    // given a host that names one commit and gives out another, of the same tag
    let world = World::new().await;
    let wanted = world.rules();
    let other = world.server.repository("evil/rules");
    other.commit(&[("plugin.yaml", Content::Text("version: evil\n"))]);
    other.tag("v1.0.0");
    let fault = Fault::GivesOut("evil/rules".to_owned());
    world.server.set_fault("acme/rules", fault);

    // when it is fetched, then nothing of it arrives
    let text = assert_failed(world.fetch("acme/rules#v1.0.0").await);
    assert!(text.contains("another commit"), "{text}");
    let by_id = world.fetch(&format!("acme/rules#sha:{wanted}")).await;
    assert!(by_id.is_err(), "{by_id:?}");
}

#[tokio::test]
async fn nobody_is_sent_to_another_host() {
    // given a host that sends to another one, which has what is wanted
    let (world, other) = (World::new().await, GitServer::start().await);
    let rules = other.repository("acme/rules");
    rules.commit(&[("plugin.yaml", Content::Text("version: evil\n"))]);
    rules.tag("v1.0.0");
    let commit = world.rules();
    let fault = Fault::RedirectsTo(other.url());
    world.server.set_fault("acme/rules", fault);

    // when it is asked, then the other one hears nothing
    for fragment in ["v1.0.0", &format!("sha:{commit}"), "tag:latest"] {
        assert_failed(world.fetch(&format!("acme/rules#{fragment}")).await);
    }
    let found = world.source.resolve("acme/rules", &[PluginRef::LatestTag]);
    assert!(found.await.is_err());
    assert_eq!(other.asked().len(), 0);
}

#[tokio::test]
async fn a_renamed_repository_of_the_same_host_is_followed() {
    let world = World::new().await;
    let renamed = world.server.repository("acme/better-rules");
    let commit = renamed.commit(&[("plugin.yaml", Content::Text("version: one\n"))]);
    renamed.tag("v1.0.0");
    let fault = Fault::RenamedTo("acme/better-rules".to_owned());
    world.server.set_fault("acme/rules", fault);

    for fragment in ["v1.0.0", &format!("sha:{commit}")] {
        let fetched = world
            .fetch(&format!("acme/rules#{fragment}"))
            .await
            .unwrap();
        // Who asked for one name gets that name.
        assert_eq!(fetched.plugin.name, "rules");
        assert_eq!(fetched.plugin.revision.as_ref(), Some(&commit));
    }

    // One that leads in circles ends.
    let fault = Fault::RenamedTo("acme/rules".to_owned());
    world.server.set_fault("acme/rules", fault);
    assert_failed(world.fetch("acme/rules#v1.0.0").await);
}

#[tokio::test]
async fn a_host_that_never_answers_costs_nothing_once_nobody_waits() {
    for fault in [Fault::Hangs, Fault::Stalls] {
        let world = World::new().await;
        world.rules();
        world.server.set_fault("acme/rules", fault.clone());
        let into = tempfile::tempdir().expect("a folder");
        let limits = TreeLimits::default();
        let request = FetchRequest::new("acme/rules#v1.0.0", into.path(), limits);

        // when somebody stops waiting once it was asked
        let asked = async {
            while world.server.asked().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            fetched = world.source.fetch(request) => panic!("{fetched:?}"),
            () = asked => {}
        }

        // then nothing of it is left
        let folder = world.dir.path().join("fetches");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while works_in(&folder) || !world.left_behind().is_empty() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{fault:?}: it goes on"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(files(into.path()), Vec::<String>::new());
    }
}

/// Whether a process has a working directory below a folder.
fn works_in(folder: &std::path::Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut places = processes.filter_map(|process| process.path().join("cwd").read_link().ok());
    places.any(|place| place.starts_with(folder))
}

#[tokio::test]
async fn a_broken_host_is_an_error_of_its_own() {
    let world = World::new().await;
    world.rules();
    for status in [403, 500, 503] {
        world.server.set_fault("acme/rules", Fault::Says(status));
        assert_failed(world.fetch("acme/rules#v1.0.0").await);
    }
    world.server.set_fault("acme/rules", None);
    world.fetch("acme/rules#v1.0.0").await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_is_never_written() {
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    // Compresses to almost nothing.
    let zeros = vec![0; 8 * 1024 * 1024];
    rules.commit(&[("a", Content::Bytes(&zeros)), ("b", Content::Bytes(&zeros))]);
    rules.tag("bomb");
    let many: Vec<String> = (0..300).map(|n| format!("files/{n}")).collect();
    let empty: Vec<_> = many
        .iter()
        .map(|name| (&**name, Content::Text("")))
        .collect();
    rules.commit(&empty);
    rules.tag("many");
    let deep = "d/".repeat(40) + "file";
    rules.commit(&[(&deep, Content::Text(""))]);
    rules.tag("deep");

    let mut limits = TreeLimits::default().with_bytes(10 * 1024 * 1024);
    limits.entries = 300;
    for tag in ["bomb", "many", "deep"] {
        let fetched = world
            .fetch_within(&format!("acme/rules#{tag}"), limits)
            .await;
        let error = fetched.unwrap_err();
        assert!(
            matches!(error, PluginSourceError::TooLarge(_)),
            "{tag}: {error}"
        );
    }
    limits.entries = 301;
    world.fetch_within("acme/rules#many", limits).await.unwrap();
    // A pack that does not compress ends while it comes in.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    })
    .take(64 * 1024 * 1024)
    .collect();
    rules.commit(&[("noise", Content::Bytes(&noise))]);
    rules.tag("noise");
    let error = world
        .fetch_within("acme/rules#noise", limits.with_bytes(1024))
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, PluginSourceError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn nothing_that_a_repository_holds_is_obeyed() {
    // given everything that git and its helpers read from a repository
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    let attributes = "*.txt text eol=crlf\n*.id ident\n*.utf working-tree-encoding=UTF-16\n\
                      *.bin filter=lfs\n*.x filter=evil\n*.e export-ignore\n";
    let modules = "[submodule \"m\"]\n\tpath = m\n\turl = http://127.0.0.1:9/m.git\n";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    let kept = [
        (".gitattributes", attributes),
        (".gitmodules", modules),
        (".gitconfig", "[filter \"evil\"]\n\tsmudge = touch evil\n"),
        (".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:9/\n"),
        ("hooks/post-checkout", "#!/bin/sh\ntouch evil\n"),
        ("a.txt", "one\ntwo\n"),
        ("b.txt", "one\r\ntwo\n"),
        ("a.id", "$Id$\n"),
        ("a.utf", "text\n"),
        ("a.bin", pointer),
        ("a.x", "plain\n"),
        ("a.e", "kept\n"),
    ];
    let mut tree: Vec<_> = kept
        .iter()
        .map(|(name, text)| (*name, Content::Text(text)))
        .collect();
    tree.push(("run.sh", Content::Program(b"#!/bin/sh\n")));
    tree.push(("environ.md", Content::Link("/proc/self/environ")));
    let commit = rules.commit(&tree);
    rules.tag("v1.0.0");

    // when it is fetched
    let fetched = world.fetch("acme/rules#v1.0.0").await.unwrap();

    // then it is what is stored, byte by byte
    assert_eq!(fetched.plugin.revision, Some(commit));
    for (name, text) in kept {
        assert_eq!(fetched.text(name), text, "{name}");
    }
    assert!(
        !files(fetched.into.path())
            .iter()
            .any(|name| name.ends_with("evil"))
    );
    // and a link is a link, for staging to refuse
    let link = fetched.into.path().join("environ.md");
    let target = std::fs::read_link(link).expect("a link");
    assert_eq!(target.to_str(), Some("/proc/self/environ"));
    use std::os::unix::fs::PermissionsExt;
    let program = fetched.into.path().join("run.sh");
    let mode = std::fs::metadata(program)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o100, 0o100);
}

#[tokio::test]
async fn specs_that_could_be_options_reach_no_host() {
    let world = World::new().await;
    for spec in [
        "--upload-pack=touch /tmp/x/y#v1",
        "acme/rules#--upload-pack=x",
        "acme/rules#$(id)",
        "acme/rules#v1;id",
        "acme/rules#refs/heads/a:refs/heads/b",
        "../../etc#v1",
        "acme/%2e%2e#v1",
        "ext::sh -c id/x#v1",
        "user:password@host/x#v1",
    ] {
        let error = world.fetch(spec).await.unwrap_err();
        assert!(
            matches!(error, PluginSourceError::InvalidSpec(_)),
            "{spec}: {error}"
        );
        let upstream = world.source.resolve(spec, &[PluginRef::Default]).await;
        assert!(upstream.is_err(), "{spec}");
    }
    assert_eq!(world.server.asked().len(), 0);
    assert_not_found(world.fetch("acme/rules#v1").await);
}
