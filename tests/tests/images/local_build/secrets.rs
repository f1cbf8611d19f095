//! Tokens: where they go, and where they must not.

use std::fs;

use molecule_core::backend::StartSpec;
use tokio_util::sync::CancellationToken;

use crate::support::build_world::{BuildWorld, Heard, explain};
use crate::support::git_host::{Api, GitHost, basic};
use crate::support::until;

const TOKEN: &str = "planted+token/0123456789";

/// Command lines of all processes that mention a text.
fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    found
}

/// Fails when a file below a folder holds the token in any form.
fn assert_no_token_below(folder: &std::path::Path) {
    for child in fs::read_dir(folder).unwrap().flatten() {
        if child.file_type().unwrap().is_dir() {
            assert_no_token_below(&child.path());
        } else if child.file_type().unwrap().is_file() {
            let content = fs::read(child.path()).unwrap();
            let content = String::from_utf8_lossy(&content);
            for form in [TOKEN, &basic("oauth2", TOKEN)] {
                assert!(!content.contains(form), "{}", child.path().display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_private_repository_gets_the_token_in_headers_and_nobody_else_sees_it() {
    let world = BuildWorld::with(|config| config.local_build.token = Some(TOKEN.into()));
    let Some(world) = world.await else {
        return;
    };
    world.host.set_token(TOKEN);
    let reference = world.commit("autogen", "LABEL version=1");

    // Given a git host that takes its time, git can be watched at work.
    world.host.set_git_hangs(true);
    let port = format!(":{}/acme/", world.host.port);
    let cancel = CancellationToken::new();
    let spec = world.spec("autogen");
    let (ended, ()) = tokio::join!(world.backend.start(&spec, &cancel), async {
        until("git asks the host", async || world.host.fetches() == 1).await;
        let lines = command_lines(&port);
        assert!(
            lines.iter().any(|line| line.contains(" clone ")),
            "{lines:?}"
        );
        for line in lines {
            assert!(!line.contains(TOKEN) && !line.contains("oauth2"), "{line}");
            assert!(!line.contains(&basic("oauth2", TOKEN)), "{line}");
        }
        cancel.cancel();
    });
    assert!(ended.is_err());
    until("git is gone", async || command_lines(&port).is_empty()).await;
    world.host.set_git_hangs(false);

    // When it answers, the image is built.
    world.start("autogen").await.unwrap();
    assert!(world.image(&reference).await.is_some());
    for asked in world.host.asked() {
        assert!(!asked.target.contains("planted"), "{asked:?}");
        let expected = if asked.target.starts_with("/api/") {
            format!("token {TOKEN}")
        } else {
            basic("oauth2", TOKEN)
        };
        assert_eq!(asked.authorization(), Some(&*expected), "{asked:?}");
    }
    let sources = world.source_dir("autogen");
    assert!(
        sources
            .join(&reference[reference.len() - 12..])
            .join(".git/config")
            .is_file()
    );
    assert_no_token_below(&sources);
    let history = world
        .fixture
        .docker
        .image_history(&reference)
        .await
        .unwrap();
    assert!(!format!("{history:?}").contains("planted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_wrong_token_and_none_have_their_texts() {
    let world = BuildWorld::with(|config| config.local_build.token = Some("other-token-1".into()));
    let Some(world) = world.await else {
        return;
    };
    world.host.set_token(TOKEN);
    world.commit("crewai", "");
    let repository = format!("{}crewai", world.host.repo_prefix());
    let api = format!(
        "http://127.0.0.1:{}/api/v1/repos/acme/template-crewai/branches/main",
        world.host.port
    );
    let prefix = format!(
        "local-build mode: ensure image for runtime \"crewai\": local-build: cannot determine \
         HEAD sha for runtime \"crewai\" at {repository}: "
    );

    let text = world.refused("crewai").await;
    let expected = format!(
        "{prefix}auth failure (401) at {api} — verify MOLECULE_GITEA_TOKEN if private repo"
    );
    assert!(text.ends_with(&expected), "{text}");

    let nobody = world.neighbour(|_| {});
    let error = nobody
        .start(&world.spec("crewai"), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(!error.is_transient());
    let text = explain(error);
    let expected = format!(
        "{prefix}repo not found at {api} — runtime \"crewai\" may not be mirrored to Gitea"
    );
    assert!(text.contains(&expected), "{text}");
    assert_eq!(world.host.fetches(), 0);
    assert!(world.sources("crewai").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_password_in_the_prefix_is_used_and_never_told() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    world.commit("langgraph", "");
    let with_password = world.neighbour(|config| {
        let prefix = &mut config.local_build.repo_prefix;
        *prefix = prefix.replace("http://", "http://bot:planted-password@");
    });
    world
        .host
        .set_api(Api::Says(418, b"http://bot:planted-password@x/".to_vec()));
    let error = with_password
        .start(&world.spec("langgraph"), &CancellationToken::new())
        .await
        .unwrap_err();
    let debug = format!("{error:?}");
    let text = format!("{debug} {}", explain(error));
    assert!(text.contains("http://***@127.0.0.1:"), "{text}");
    assert!(text.contains("returned 418"), "{text}");
    assert!(
        !text.contains("planted") && !text.contains("bot:"),
        "{text}"
    );
    let asked = world.host.asked();
    assert_eq!(
        asked[0].authorization(),
        Some(&*basic("bot", "planted-password"))
    );

    world.host.set_api(Api::Honest);
    with_password
        .start(&world.spec("langgraph"), &CancellationToken::new())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_redirect_gets_no_token() {
    let world = BuildWorld::with(|config| config.local_build.token = Some(TOKEN.into()));
    let Some(world) = world.await else {
        return;
    };
    let elsewhere = GitHost::start().await;
    world.commit("deepagents", "");
    world.host.set_api(Api::Redirects(format!(
        "http://127.0.0.1:{}/",
        elsewhere.port
    )));
    let text = world.refused("deepagents").await;
    assert!(text.contains("returned 302"), "{text}");
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_what_a_build_prints_is_masked() {
    let world = BuildWorld::with(|config| config.local_build.token = Some(TOKEN.into()));
    let Some(world) = world.await else {
        return;
    };
    let shout = format!(
        "printf '\\033[31m{TOKEN}\\033[0m https://oauth2:{TOKEN}@host/x https://a:b@host\\n'; exit 3"
    );
    let run = serde_json::json!(["/bin/busybox", "sh", "-c", shout]);
    world.commit("codex", &format!("RUN {run}"));
    let heard = Heard::default();
    let spec = StartSpec {
        progress: heard.progress(),
        ..world.spec("codex")
    };
    let error = world
        .backend
        .start(&spec, &CancellationToken::new())
        .await
        .unwrap_err();
    let debug = format!("{error:?}");
    let text = format!("{debug} {}", explain(error));
    let shown = "*** https://***@host/x https://***@host";
    assert!(text.contains(shown), "{text}");
    assert!(text.contains("code: 3"), "{text}");
    for line in heard.lines().iter().chain([&text]) {
        assert!(
            !line.contains("planted") && !line.contains('\x1b'),
            "{line}"
        );
        assert!(!line.contains("a:b@"), "{line}");
    }
    // What failed leaves nothing.
    until("nothing is left", async || world.built().await.is_empty()).await;
    assert!(world.sources("codex").is_empty());
}
