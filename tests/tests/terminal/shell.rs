//! What a shell in a terminal can do.

use molecule_tests::ADMIN;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::world::{World, docker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_echoed_the_size_follows_and_the_exit_code_is_told() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;

    // Given a terminal of a certain size
    let opened = world.terminal_as(&one, ADMIN, "?cols=101&rows=33").await;
    let mut term = opened.expect("a terminal");
    term.types("echo said-$((20 + 22)); stty size").await;
    term.until("said-42").await;
    term.until("33 101").await;

    // When it is resized, between nonsense that is answered and harms nothing
    for (garbage, answer) in [
        ("garbage", "invalid control message"),
        (
            r#"{"type":"resize","cols":0,"rows":1}"#,
            "invalid terminal size",
        ),
        (r#"{"type":"exit"}"#, "invalid control message"),
    ] {
        term.says(garbage).await;
        assert_eq!(
            term.told().await,
            json!({ "type": "error", "message": answer })
        );
    }
    term.says(r#"{"type":"resize","cols":120,"rows":40}"#).await;
    term.types("stty size").await;
    term.until("40 120").await;
    // Bytes that look like anything but a terminal's go through, too.
    term.types(r"printf '\001\002\000\377\377\377\377\377done-%s' x")
        .await;
    term.until("done-x").await;
    assert!(
        one.processes().iter().any(|line| line.ends_with("/bin/sh")),
        "{:?}",
        one.processes()
    );

    // Then its exit code is told, and who was there is recorded
    term.types("exit 7").await;
    let (told, closed) = term.end().await;
    assert_eq!(told, [json!({ "type": "exit", "code": 7 })]);
    assert_eq!(closed, Some((1000, String::new())));
    let end = world.closed(&one).await;
    let opened = world.recorded(&one, "WORKSPACE_TERMINAL_OPENED").await;
    let who = json!({ "session": end["session"], "by": "admin-token", "remote": "127.0.0.1" });
    assert_eq!(opened, [who]);
    assert_eq!(
        (&end["reason"], &end["exit_code"]),
        (&json!("exited"), &json!(7))
    );
    assert!(end["duration_secs"].is_u64(), "{end}");
    assert!(!end.to_string().contains(ADMIN));
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_output_arrives_whole_and_much_input_too() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut term = world.terminal(&one).await;
    // More than any buffer on the way.
    term.types("yes 0123456789 | head -n 200000; echo end-$((1 + 1))")
        .await;
    term.until("end-2").await;
    // Raw, so that the terminal itself drops nothing.
    term.types("stty raw -echo; echo ready-$((1 + 1)); head -c 200000 | tr -d x; stty sane; echo all-$((1 + 2))")
        .await;
    term.until("ready-2").await;
    for _ in 0..20 {
        let bytes = vec![b'x'; 10_000];
        term.socket.send(Message::Binary(bytes.into())).await;
    }
    term.until("all-3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_runs_as_the_container_does_and_an_agents_own_as_the_agent() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let usual = world.workspace(json!({ "tier": 2 })).await;
    let sealed = world.workspace(json!({ "tier": 1 })).await;
    for (workspace, token, user) in [
        (&usual, ADMIN.to_owned(), "uid-0-"),
        (&usual, usual.token(), "uid-1000-"),
        (&sealed, ADMIN.to_owned(), "uid-1000-"),
        (&sealed, sealed.token(), "uid-1000-"),
    ] {
        let mut term = world
            .terminal_as(workspace, &token, "")
            .await
            .expect("a terminal");
        term.types("echo uid-$(id -u)-").await;
        term.until(user).await;
        term.types("exit").await;
        term.end().await;
        workspace.is_quiet().await;
    }
    let mut by: Vec<String> = Vec::new();
    for event in world.recorded(&usual, "WORKSPACE_TERMINAL_OPENED").await {
        by.push(event["by"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(
        by,
        [
            format!("workspace-token:{}", usual.id),
            "admin-token".to_owned()
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_without_a_shell_says_so() {
    let Some(mut world) = World::with(|builder| builder, &["sh"]).await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let refused = world.terminal_as(&one, ADMIN, "").await.err();
    let body = json!({ "error": "no shell in this workspace's image" }).to_string();
    assert_eq!(refused, Some((409, body)));
    assert!(
        world
            .recorded(&one, "WORKSPACE_TERMINAL_OPENED")
            .await
            .is_empty()
    );
    // And nothing is ended that never ran: once everything is over, the daemon was
    // asked for each of the two shells, and no more.
    let app = world.app.take().expect("a server");
    app.shutdown().await;
    let only = format!("container={}", one.container);
    let now = docker(&["info", "--format", "{{.SystemTime}}"]);
    let mut events = vec!["events", "--since", "10m", "--until", &now];
    events.extend(["--filter", &only, "--filter", "event=exec_create"]);
    let execs = docker(&events);
    assert_eq!(execs.lines().count(), 2, "{execs}");
}
