//! How a terminal ends, and that nothing of it is left then.

use std::time::Duration;

use molecule_tests::ADMIN;
use molecule_tests::live::Socket;
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::world::{World, docker, wait};

/// Starts things that a hang-up alone does not end.
const STUBBORN: &str = "sleep 91001 & setsid sleep 91002 & (trap '' HUP TERM; exec sleep 91003) & \
                        (trap '' HUP; while :; do sleep 9; done) & echo started-$((1 + 1))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_everything_with_it() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut other = world.terminal(&one).await;
    other
        .types("setsid sleep 92001 & sleep 92002 & echo other-$((1 + 1))")
        .await;
    other.until("other-2").await;
    let mut term = world.terminal(&one).await;
    term.types(STUBBORN).await;
    term.until("started-2").await;
    let is_there = |what: &str| one.processes().iter().any(|line| line.ends_with(what));
    assert!(is_there("91001") && is_there("91002") && is_there("91003"));

    // When the connection is cut
    drop(term);

    // Then what was started in it is gone, and nothing else is
    wait("its processes are gone", || {
        !one.processes().iter().any(|line| line.contains("9100"))
    })
    .await;
    assert_eq!(world.closed(&one).await["reason"], "client left");
    assert!(is_there("92001") && is_there("92002"));
    other.types("echo alive-$((1 + 1))").await;
    other.until("alive-2").await;

    // A goodbye does the same
    other.socket.send(Message::Close(None)).await;
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_grep_the_session_is_ended_all_the_same() {
    let Some(mut world) = World::with(|builder| builder, &["grep"]).await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut term = world.terminal(&one).await;
    term.types("sleep 91001 & (trap '' HUP; exec sleep 91003) & echo started-$((1 + 1))")
        .await;
    term.until("started-2").await;
    drop(term);
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_the_background_ends_with_its_shell() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut term = world.terminal(&one).await;
    term.types(STUBBORN).await;
    term.until("started-2").await;
    term.types("exit 3").await;
    let (told, closed) = term.end().await;
    assert_eq!(told, [json!({ "type": "exit", "code": 3 })]);
    assert_eq!(closed, Some((1000, String::new())));
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_holds_the_shell_up_and_nothing_else() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let small = TcpSocket::new_v4().expect("a socket");
    small.set_recv_buffer_size(4096).expect("an option");
    let bearer = format!("Bearer {ADMIN}");
    let path = format!("/workspaces/{}/terminal", one.id);
    let headers = [("authorization", bearer.as_str())];
    let socket = Socket::open_with(&world.app().url, &path, &headers, small).await;
    let mut socket = socket.expect("a terminal");
    // Much more than all buffers on the way hold.
    let much = "head -c 20000000 /dev/zero; : > /tmp/done\n";
    socket.send(Message::Binary(much.into())).await;
    wait("it prints", || one.processes().len() > 1).await;
    // Others are served meanwhile.
    let mut other = world.terminal(&one).await;
    other.types("echo served-$((1 + 1))").await;
    other.until("served-2").await;
    // The shell waits for its client, however long.
    other
        .types("sleep 5; test -e /tmp/done; echo there-$?-")
        .await;
    other.until("there-1-").await;
    assert_eq!(one.processes().len(), 3, "{:?}", one.processes());
    // Once it is read, the shell goes on.
    let mut read = 0;
    while read < 20_000_000 {
        match socket.frame().await {
            Some(Message::Binary(bytes)) => read += bytes.len(),
            Some(Message::Ping(_) | Message::Pong(_)) => {}
            frame => panic!("no bytes but {frame:?} after {read}"),
        }
    }
    other
        .types("while ! test -e /tmp/done; do sleep 1; done; echo gone-on-$((1 + 1))")
        .await;
    other.until("gone-on-2").await;
    // And a shutdown does not wait for a client that reads nothing.
    socket
        .send(Message::Binary("yes 0123456789\n".into()))
        .await;
    wait("it prints", || one.processes().len() > 2).await;
    let app = world.app.take().expect("a server");
    tokio::time::timeout(Duration::from_secs(40), app.shutdown())
        .await
        .expect("an end");
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_terminals_and_records_it() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut term = world.terminal(&one).await;
    term.types(STUBBORN).await;
    term.until("started-2").await;
    let app = world.app.take().expect("a server");
    let ending = tokio::spawn(app.shutdown());
    let (_, closed) = term.end().await;
    assert_eq!(closed, Some((1001, "server is shutting down".to_owned())));
    let (database, _dir) = ending.await.expect("an end");
    one.is_quiet().await;
    let sql =
        "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_TERMINAL_CLOSED'";
    assert_eq!(database.count(sql).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_a_delete_and_a_crash_end_terminals() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let paused = world.workspace(json!({})).await;
    let mut term = world.terminal(&paused).await;
    let path = format!("/workspaces/{}/pause", paused.id);
    let reply = world
        .app()
        .post(&path, json!({}))
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(term.end().await.1.is_some());
    world.closed(&paused).await;
    let refused = world.terminal_as(&paused, ADMIN, "").await.err();
    let body = json!({ "error": "workspace is not running" }).to_string();
    assert_eq!(refused, Some((409, body)));

    let deleted = world.workspace(json!({})).await;
    let mut term = world.terminal(&deleted).await;
    let path = format!("/workspaces/{}?confirm=true", deleted.id);
    let reply = world.app().delete(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(term.end().await.1.is_some());
    world.closed(&deleted).await;
    assert_eq!(
        world
            .terminal_as(&deleted, ADMIN, "")
            .await
            .err()
            .expect("a refusal")
            .0,
        404
    );

    let crashed = world.workspace(json!({})).await;
    let mut term = world.terminal(&crashed).await;
    docker(&["stop", "-t", "0", &crashed.container]);
    assert!(term.end().await.1.is_some());
    world.closed(&crashed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_terminal_ends() {
    let idle = |builder: molecule_tests::TestAppBuilder| {
        builder.config(|config| config.workspaces.terminal_idle_secs = 2)
    };
    let Some(mut world) = World::with(idle, &[]).await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut term = world.terminal(&one).await;
    let (_, closed) = term.end().await;
    assert_eq!(closed, Some((1008, "idle for too long".to_owned())));
    assert_eq!(world.closed(&one).await["reason"], "idle");
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_big_ends_its_terminal() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let mut term = world.terminal(&one).await;
    let bytes = vec![b'x'; 64 * 1024 + 1];
    term.socket.send(Message::Binary(bytes.into())).await;
    term.end().await;
    assert_eq!(world.closed(&one).await["reason"], "message too big");
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_too_early_leaves_a_whole_record() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;

    // Given a database that is busy while a shell starts
    let mut busy = SqliteConnection::connect(world.app().database.url())
        .await
        .expect("connect");
    run(&mut busy, "BEGIN IMMEDIATE").await;
    let bearer = format!("Bearer {ADMIN}");
    let path = format!("/workspaces/{}/terminal", one.id);
    let url = world.app().url.clone();
    let opening = tokio::spawn(async move {
        let socket = TcpSocket::new_v4().expect("a socket");
        let headers = [("authorization", bearer.as_str())];
        Socket::open_with(&url, &path, &headers, socket)
            .await
            .is_ok()
    });
    wait("a shell runs", || !one.processes().is_empty()).await;

    // When its client is gone before the beginning is written down
    opening.abort();
    assert!(opening.await.is_err(), "nobody types before it is recorded");
    // Time for the server to notice: others are served meanwhile.
    for _ in 0..50 {
        let path = format!("/workspaces/{}", one.id);
        assert_eq!(world.app().get(&path).send().await.status, 200);
    }
    run(&mut busy, "ROLLBACK").await;

    // Then nothing of it is left but a record of both ends
    one.is_quiet().await;
    let closed = world.closed(&one).await;
    let opened = world.recorded(&one, "WORKSPACE_TERMINAL_OPENED").await;
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0]["session"], closed["session"]);
    assert_eq!(closed["reason"], "never connected");
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.expect(sql);
}
