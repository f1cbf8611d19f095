//! A repository is somebody else's: what it holds must not reach this machine.

use crate::backend_support::fixture::Fixture;
use crate::support::build_world::{BuildWorld, explain};
use crate::support::git_host::Content;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_hostile_repository_reads_and_runs_nothing_here() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let outside = tempfile::tempdir().unwrap();
    let trace = outside.path().join("ran");
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "planted-outside").unwrap();
    let script = format!("#!/bin/sh\ntouch {}\n", trace.display());
    let filter = format!(
        "[filter \"evil\"]\n\tsmudge = touch {0}\n\tprocess = touch {0}\n",
        trace.display()
    );
    let modules = "[submodule \"m\"]\n\tpath = m\n\turl = file:///etc\n\tupdate = !touch /tmp/x\n";
    let secret = secret.to_str().unwrap();
    world.commit_with(
        "deepagents",
        "COPY . /src",
        &[
            ("hooks/post-checkout", Content::Program(script.as_bytes())),
            (
                ".githooks/post-checkout",
                Content::Program(script.as_bytes()),
            ),
            (".gitconfig", Content::Text(&filter)),
            (
                ".gitattributes",
                Content::Text("* filter=evil\n*.bin filter=lfs\n"),
            ),
            (
                ".lfsconfig",
                Content::Text("[lfs]\n\turl = http://127.0.0.1:9/\n"),
            ),
            (".gitmodules", Content::Text(modules)),
            (
                "large.bin",
                Content::Text("version https://git-lfs.github.com/spec/v1\n"),
            ),
            ("absolute", Content::Link(secret)),
            (
                "climbing",
                Content::Link("../../../../../../../../etc/passwd"),
            ),
            ("inside", Content::Link("docs/readme")),
            ("docs/readme", Content::Text("kept")),
            ("docs/up", Content::Link("../agent.sh")),
            (".dockerignore", Content::Text("*.md\nprivate\n")),
            ("notes.md", Content::Text("left out")),
            ("private/key", Content::Text("left out")),
        ],
    );
    let spec = world.spec("deepagents");
    world
        .backend
        .start(&spec, &CancellationToken::new())
        .await
        .unwrap();

    // Then nothing of it ran here,
    assert!(!trace.exists());
    // and the image has what is in the repository and nothing else.
    let script = "cd /src; [ \"$($B cat inside)\" = kept ]; [ -L docs/up ]; [ -x docs/up ]; \
         for name in absolute climbing .git notes.md private; do \
         if [ -e $name ] || [ -L $name ]; then echo found $name; exit 1; fi; done; \
         $B grep -r planted-outside . && exit 1; \
         [ \"$($B stat -c %u:%a agent.sh)\" = 0:755 ]; [ \"$($B stat -c %a docs/readme)\" = 644 ]";
    world.fixture.script(spec.workspace_id, script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_large_file_goes_through_in_pieces() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    // Larger than all buffers on the way together.
    let large = vec![0; 48 * 1024 * 1024];
    let long_name = format!("{}file", "a-folder-with-a-long-name/".repeat(8));
    world.commit_with(
        "autogen",
        "COPY large /large\nCOPY a-folder-with-a-long-name /long",
        &[
            ("large", Content::Bytes(&large)),
            (&long_name, Content::Text("long")),
        ],
    );
    let spec = world.spec("autogen");
    world
        .backend
        .start(&spec, &CancellationToken::new())
        .await
        .unwrap();
    let script = format!(
        "[ $($B stat -c %s /large) = {} ]; $B find /long -name file | $B grep -q .",
        large.len()
    );
    world.fixture.script(spec.workspace_id, &script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_trees_without_a_plain_dockerfile_or_with_too_long_rules_are_refused() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let rules = "x\n".repeat(40_000);
    world.commit_with(
        "crewai",
        "",
        &[("Dockerfile", Content::Link("/etc/passwd"))],
    );
    let text = world.refused("crewai").await;
    assert!(text.contains("has no Dockerfile"), "{text}");
    world.commit_with("crewai", "", &[(".dockerignore", Content::Text(&rules))]);
    let text = world.refused("crewai").await;
    assert!(
        text.contains(".dockerignore is not text, or too long"),
        "{text}"
    );
    assert!(world.sources("crewai").is_empty());

    let unusable = world.neighbour(|config| {
        config.local_build.repo_prefix = "http://127.0.0.1/template-".to_owned();
    });
    let error = unusable
        .start(&world.spec("crewai"), &CancellationToken::new())
        .await
        .unwrap_err();
    let text = explain(error);
    assert!(
        text.contains("names no organisation and repository"),
        "{text}"
    );
}
