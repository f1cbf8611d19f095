//! What `tag:latest` means.

use molecule_hooks::{PluginRef, PluginSource};
use molecule_tests::git_server::Content;

use super::World;

async fn latest(world: &World) -> Option<String> {
    let found = world.source.resolve("acme/rules", &[PluginRef::LatestTag]);
    found.await.expect("an answer").remove(0)
}

#[tokio::test]
async fn the_highest_version_is_the_latest_whenever_it_was_made() {
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    let release = |tag: &str| {
        let commit = rules.commit(&[("version", Content::Text(tag))]);
        rules.tag(tag);
        commit
    };
    assert_eq!(latest(&world).await, None, "nothing is tagged");
    release("nightly");
    let tenth = release("v1.10.0");
    release("v1.9.0");
    release("v2.0.0-rc.1");
    assert_eq!(latest(&world).await, Some(tenth));
    let second = release("2.0.0");
    assert_eq!(latest(&world).await, Some(second));
    assert_eq!(world.server.fetches(""), 0, "names say it all");
}

#[tokio::test]
async fn without_versions_the_newest_commit_is_the_latest() {
    let world = World::new().await;
    let rules = world.server.repository("acme/rules");
    let dated = |tag: &str, at: i64| {
        let large = tag.repeat(100_000);
        let commit = rules.commit_dated(&[("version", Content::Text(&large))], at);
        rules.annotated_tag(tag);
        commit
    };
    let only = dated("b", 1_700_000_000);
    assert_eq!(latest(&world).await, Some(only));
    assert_eq!(world.server.fetches(""), 0, "there is no choice");
    let newest = dated("a", 1_700_000_500);
    dated("c", 1_700_000_100);
    rules.tag_on_file("d", "version");

    assert_eq!(latest(&world).await, Some(newest.clone()));
    assert_eq!((world.server.lookups(""), world.server.fetches("")), (2, 1));

    // and what is installed is the same
    let fetched = world.fetch("acme/rules#tag:latest").await.unwrap();
    assert_eq!(fetched.plugin.revision, Some(newest));
    assert_eq!(fetched.text("version").len(), 100_000);
}
