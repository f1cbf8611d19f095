//! What the console of a container shows.

use std::time::Duration;

use molecule_tests::ADMIN;
use serde_json::json;
use tokio::time::Instant;

use crate::world::{PATIENCE, Workspace, World, docker};

/// The console, once this is in it.
async fn console_with(world: &World, workspace: &Workspace, wanted: &str) -> String {
    let path = format!("/workspaces/{}/console", workspace.id);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = world.app().get(&path).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let output = reply.json()["output"].as_str().expect("text").to_owned();
        if output.contains(wanted) {
            return output;
        }
        assert!(Instant::now() < deadline, "{wanted:?} not in {output:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_prints_is_shown_without_secrets_and_controls() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let secret = "a-value-nobody-may-read";
    let prints = r#"echo "key=$API_KEY"; echo to-stderr >&2;
        printf '\033[31mred\033[0m \033]0;title\007a\000b\001c\377d\tt\r\n';
        printf 'a-value-nobody\033[1m-may-read\n10%%\r20%%\r'; printf 'end\n'"#;
    let secrets = json!({ "API_KEY": secret, "AGENT": prints });
    let one = world.workspace(json!({ "secrets": secrets })).await;
    let output = console_with(&world, &one, "end").await;
    let lines: Vec<&str> = output.lines().collect();
    for line in [
        "key=[REDACTED]",
        "to-stderr",
        "red abc\u{fffd}d\tt",
        "[REDACTED]",
        "20%",
        "end",
    ] {
        assert!(lines.contains(&line), "{line:?} not in {output:?}");
    }
    assert!(
        !output.contains(secret) && !output.contains('\u{1b}'),
        "{output:?}"
    );

    // A container that stopped still has its console, and one that is gone none.
    docker(&["stop", "-t", "0", &one.container]);
    console_with(&world, &one, "to-stderr").await;
    docker(&["rm", "-f", &one.container]);
    assert_eq!(console_with(&world, &one, "").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_megabytes_the_last_whole_lines_are_shown() {
    let Some(mut world) = World::new().await else {
        return;
    };
    // Short lines, of which a console shows many; and lines that the daemon cuts.
    for (length, count, least) in [(10, 200_000, 15_000), (40_000, 100, 5)] {
        let line = format!("$(head -c {length} /dev/zero | tr '\\000' x)");
        let prints = format!("yes {line} | head -n {count}; echo end");
        let one = world
            .workspace(json!({ "secrets": { "AGENT": prints } }))
            .await;
        let output = console_with(&world, &one, "end\n").await;
        assert!(output.len() <= 256 * 1024, "{}", output.len());
        let lines: Vec<&str> = output.lines().collect();
        let (last, whole) = lines.split_last().expect("lines");
        assert_eq!(*last, "end");
        assert!(whole.len() >= least, "{}", whole.len());
        assert!(whole.iter().all(|line| line.len() == length));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_container_is_not_shown() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    docker(&["rm", "-f", &one.container]);
    docker(&[
        "run",
        "-d",
        "--network=none",
        "--name",
        &one.container,
        "--label",
        "molecule.platform.managed=true",
        "--label",
        "molecule.platform.instance=somebody-else",
        "--label",
        &format!("molecule.workspace.id={}", one.id),
        world.image(),
        "/bin/busybox",
        "sleep",
        "100000",
    ]);
    let path = format!("/workspaces/{}/console", one.id);
    let reply = world.app().get(&path).bearer(ADMIN).send().await;
    reply.assert_error(
        502,
        "control plane returned an error fetching console output",
    );
    assert_eq!(
        world
            .terminal_as(&one, ADMIN, "")
            .await
            .err()
            .expect("a refusal")
            .0,
        502
    );
}
