//! Every form of a revision, and what it means.

use molecule_core::GitSource;
use molecule_hooks::{PluginRef, PluginSource};
use molecule_tests::git_server::{Content, Fault};

use super::{World, assert_not_found, files};

#[tokio::test]
async fn every_form_of_a_revision_brings_the_commit_that_it_names() {
    // given two releases, a branch, and a newest commit that is none of them
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    let commit = |text: &str| rules.commit(&[("version", Content::Text(text))]);
    let first = commit("first");
    rules.tag("v1.0.0");
    let second = commit("second");
    rules.annotated_tag("v1.10.0");
    let branched = commit("branched");
    rules.branch("feature/x");
    let newest = commit("newest");

    // when each is fetched, then it is that commit, and says so
    for (fragment, revision, text) in [
        ("#v1.0.0", &first, "first"),
        ("#tag:v1.0.0", &first, "first"),
        ("#v1.10.0", &second, "second"),
        ("#tag:v1.10.0", &second, "second"),
        ("#tag:latest", &second, "second"),
        ("#feature/x", &branched, "branched"),
        ("#main", &newest, "newest"),
        ("", &newest, "newest"),
        (&format!("#sha:{first}"), &first, "first"),
        (&format!("#{branched}"), &branched, "branched"),
        (
            &format!("#sha:{}", second.to_uppercase()),
            &second,
            "second",
        ),
    ] {
        let fetched = world.fetch(&format!("acme/rules{fragment}")).await;
        let fetched = fetched.unwrap_or_else(|error| panic!("{fragment}: {error}"));
        assert_eq!(fetched.plugin.name, "rules", "{fragment}");
        assert_eq!(
            fetched.plugin.revision.as_ref(),
            Some(revision),
            "{fragment}"
        );
        assert_eq!(fetched.text("version"), text, "{fragment}");
        assert_eq!(
            files(fetched.into.path()),
            ["version"],
            "no .git, nothing else"
        );
    }
}

#[tokio::test]
async fn a_tag_comes_before_a_branch_of_the_same_name() {
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    let tagged = rules.commit(&[("version", Content::Text("tagged"))]);
    rules.tag("stable");
    let branched = rules.commit(&[("version", Content::Text("branched"))]);
    rules.branch("stable");

    let fetched = world.fetch("acme/rules#stable").await.unwrap();
    assert_eq!(fetched.plugin.revision, Some(tagged));

    rules.delete_tag("stable");
    let fetched = world.fetch("acme/rules#stable").await.unwrap();
    assert_eq!(fetched.plugin.revision, Some(branched));
    assert_not_found(world.fetch("acme/rules#tag:stable").await);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let world = World::new().await;
    world.rules();
    world.server.repository("acme/empty");
    for spec in [
        "acme/missing#v1.0.0",
        "acme/missing",
        "acme/missing#sha:0123456789abcdef0123456789abcdef01234567",
        "acme/rules#v2",
        "acme/rules#tag:v2",
        // A branch is no tag.
        "acme/rules#tag:main",
        "acme/rules#sha:0123456789abcdef0123456789abcdef01234567",
        "acme/empty",
        "acme/empty#tag:latest",
    ] {
        assert_not_found(world.fetch(spec).await);
    }
    // What a private repository says to strangers, and one that says nothing else.
    for status in [401, 404] {
        world.server.set_fault("acme/rules", Fault::Says(status));
        assert_not_found(world.fetch("acme/rules#v1.0.0").await);
    }
}

#[tokio::test]
async fn a_tag_on_a_file_is_no_revision() {
    let world = World::new().await;
    world.rules();
    let rules = world.server.repository("acme/rules");
    rules.tag_on_file("odd", "plugin.yaml");
    assert_not_found(world.fetch("acme/rules#odd").await);
}

#[tokio::test]
async fn a_server_that_gives_out_only_what_it_names_serves_as_well() {
    // given a host that speaks the first version of the protocol
    let world = World::new().await;
    world.server.set_old_protocol(true);
    let first = world.rules();
    let rules = world.server.repository("acme/rules");
    rules.git(&["config", "uploadpack.allowAnySHA1InWant", "false"]);
    let second = rules.commit(&[("version", Content::Text("second"))]);
    rules.annotated_tag("v2.0.0");
    rules.commit(&[("version", Content::Text("third"))]);

    // when a tag is fetched whose commit has no name of its own
    let fetched = world.fetch("acme/rules#v2.0.0").await.unwrap();

    // then it is fetched by the tag's
    assert_eq!(fetched.plugin.revision, Some(second.clone()));
    assert_eq!(fetched.text("version"), "second");
    for id in [&first, &second] {
        let fetched = world.fetch(&format!("acme/rules#sha:{id}")).await.unwrap();
        assert_eq!(fetched.plugin.revision.as_ref(), Some(id));
    }
    let unnamed = "0123456789abcdef0123456789abcdef01234567";
    assert_not_found(world.fetch(&format!("acme/rules#{unnamed}")).await);
}

#[tokio::test]
async fn one_look_up_tells_what_many_revisions_mean() {
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    let first = rules.commit(&[("version", Content::Text("first"))]);
    rules.annotated_tag("v1.0.0");
    let second = rules.commit(&[("version", Content::Text("second"))]);
    rules.tag("v2.0.0");
    let newest = rules.commit(&[("version", Content::Text("newest"))]);

    let commit = "0123456789abcdef0123456789abcdef01234567";
    let refs = [
        PluginRef::Tag("v1.0.0".to_owned()),
        PluginRef::Named("main".to_owned()),
        PluginRef::LatestTag,
        PluginRef::Default,
        PluginRef::Tag("gone".to_owned()),
        PluginRef::Commit(commit.to_owned()),
        PluginRef::Named("v2.0.0".to_owned()),
    ];
    let found = world.source.resolve("acme/rules", &refs).await.unwrap();
    let expected = [
        Some(first),
        Some(newest.clone()),
        Some(second.clone()),
        Some(newest),
        None,
        Some(commit.to_owned()),
        Some(second),
    ];
    assert_eq!(found, expected);
    assert_eq!(world.server.lookups(""), 1);
    assert_eq!(world.server.fetches(""), 0);

    // What cannot move is not looked up.
    let found = world
        .source
        .resolve("acme/rules", &refs[5..6])
        .await
        .unwrap();
    assert_eq!(found, [Some(commit.to_owned())]);
    assert_eq!(world.server.lookups(""), 1);

    // A thousand revisions cost one look-up as well.
    let many: Vec<PluginRef> = (0..1000).map(|n| PluginRef::Tag(format!("v{n}"))).collect();
    let found = world.source.resolve("acme/rules", &many).await.unwrap();
    assert_eq!(found, vec![None; 1000]);
    assert_eq!(world.server.lookups(""), 2);

    let error = world.source.resolve("acme/missing", &refs[..1]).await;
    assert!(error.is_err(), "{error:?}");
    assert!(world.left_behind().is_empty());
}

#[test]
fn specs_of_one_repository_share_an_upstream() {
    let source = GitSource::new("github", "https://github.test", "/nowhere");
    let upstream = |spec: &str| source.upstream(spec);
    assert_eq!(upstream("acme/rules#v1"), Some("acme/rules".to_owned()));
    assert_eq!(upstream("acme/rules"), upstream("acme/rules#tag:latest"));
    assert_eq!(upstream("acme/rules/x"), None);

    let commit = "0123456789abcdef0123456789abcdef01234567";
    let pinned = format!("acme/rules#sha:{commit}");
    for spec in [
        "acme/rules",
        "acme/rules#v1",
        "acme/rules#tag:latest",
        &pinned,
    ] {
        assert_eq!(source.pinned_to(spec, commit), pinned);
    }
    assert_eq!(
        source.pinned_to("acme/rules#v1", "nonsense"),
        "acme/rules#v1"
    );
    for (spec, is_pinned, is_immutable) in [
        ("acme/rules", false, false),
        ("acme/rules#main", true, false),
        ("acme/rules#tag:v1", true, false),
        (&*pinned, true, true),
    ] {
        assert_eq!(source.is_pinned(spec), is_pinned, "{spec}");
        assert_eq!(source.is_immutable(spec), is_immutable, "{spec}");
    }
}
