//! Who hears of whom.

use std::collections::BTreeSet;

use molecule_tests::live::Socket;
use molecule_tests::support::{Agent, sql_id, strict};
use molecule_tests::{TestApp, on_both_engines};
use serde_json::json;

/// A workspace with a socket of its own.
struct Listener {
    name: &'static str,
    agent: Agent,
    socket: Socket,
}

async fn listener(app: &TestApp, name: &'static str, parent: Option<&Listener>) -> Listener {
    let parent = parent.map(|parent| parent.agent.id.as_str());
    let agent = Agent::online(app, json!({ "name": name, "parent_id": parent })).await;
    let token = format!("Bearer {}", agent.token);
    let headers = [
        ("authorization", token.as_str()),
        ("x-workspace-id", &agent.id),
    ];
    let socket = Socket::open(app, "/ws", &headers).await.expect("a socket");
    Listener {
        name,
        agent,
        socket,
    }
}

/// Everybody says something, then once more: what a listener heard of the first
/// round is complete when it hears itself in the second.
async fn heard(app: &TestApp, listeners: &mut [Listener], round: &str) -> Vec<String> {
    for task in ["first", "second"] {
        for listener in &*listeners {
            let task = format!("{round} {task} {}", listener.name);
            let beat = listener.agent.beat(app, json!({ "current_task": task }));
            assert_eq!(beat.send().await.status, 200);
        }
    }
    let mut lines = Vec::new();
    for listener in listeners {
        let mut names = BTreeSet::new();
        loop {
            let event = listener.socket.event().await;
            let task = event["payload"]["current_task"]
                .as_str()
                .unwrap_or_default();
            if let Some(name) = task.strip_prefix(&format!("{round} first ")) {
                names.insert(name.to_owned());
            }
            if task == format!("{round} second {}", listener.name) {
                break;
            }
        }
        let names: Vec<_> = names.into_iter().collect();
        lines.push(format!("{}: {}", listener.name, names.join(" ")));
    }
    lines
}

on_both_engines! {
    async fn agents_hear_of_themselves_siblings_and_those_above_and_below(engine: Engine) {
        let app = strict(engine).start().await;
        let a = listener(&app, "a", None).await;
        let b = listener(&app, "b", None).await;
        let a1 = listener(&app, "a1", Some(&a)).await;
        let a2 = listener(&app, "a2", Some(&a)).await;
        let a11 = listener(&app, "a11", Some(&a1)).await;
        let b1 = listener(&app, "b1", Some(&b)).await;
        let mut all = [a, b, a1, a2, a11, b1];
        assert_eq!(
            heard(&app, &mut all, "tree").await,
            [
                "a: a a1 a11 a2 b",
                "b: a b b1",
                "a1: a a1 a11 a2",
                "a2: a a1 a2",
                "a11: a a1 a11",
                "b1: b b1",
            ]
        );

        // When one moves to another parent
        let (moved, to) = (sql_id(engine, &all[2].agent.id), sql_id(engine, &all[1].agent.id));
        app.database
            .execute(&format!("UPDATE workspaces SET parent_id = {to} WHERE id = {moved}"))
            .await;
        // The server notices with its own next change; there is no other server here.
        app.create(json!({ "name": "new" })).await;

        // Then it and those below it hear of others, and others of them
        assert_eq!(
            heard(&app, &mut all, "moved").await,
            [
                "a: a a2 b",
                "b: a a1 a11 b b1",
                "a1: a1 a11 b b1",
                "a2: a a2",
                "a11: a1 a11 b",
                "b1: a1 b b1",
            ]
        );
        app.shutdown().await;
    }

    async fn the_removal_of_a_team_is_heard_by_those_around_it(engine: Engine) {
        let app = strict(engine).start().await;
        let mut root = listener(&app, "root", None).await;
        let mut lead = listener(&app, "lead", Some(&root)).await;
        let mut member = listener(&app, "member", Some(&lead)).await;
        let mut cousin = listener(&app, "cousin", Some(&root)).await;
        let path = format!("/workspaces/{}?confirm=true", lead.agent.id);
        let reply = app.delete(&path).bearer(molecule_tests::ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let (lead_id, member_id) = (lead.agent.id.clone(), member.agent.id.clone());
        for listener in [&mut root, &mut lead, &mut member] {
            let first = listener.socket.wait_for("WORKSPACE_REMOVED", &member_id).await;
            assert_eq!(first["payload"], json!({}));
        }
        for listener in [&mut root, &mut lead, &mut cousin] {
            let second = listener.socket.wait_for("WORKSPACE_REMOVED", &lead_id).await;
            assert_eq!(second["payload"], json!({ "cascade_deleted": 1 }));
        }
        app.shutdown().await;
    }
}
