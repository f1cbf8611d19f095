//! Who may open a terminal, how many, and for how long.

use molecule_tests::live::Socket;
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::json;

use crate::control_plane::{ControlPlane, GOOD};
use crate::world::{Term, World};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
const PAGE: &str = "http://localhost:3000";

fn error(status: u16, text: &str) -> Option<(u16, String)> {
    Some((status, json!({ "error": text }).to_string()))
}

on_both_engines! {
    async fn a_session_opens_a_terminal_from_its_own_page_only(engine: Engine) {
        // Given somebody whose browser sends a session along, whoever asks
        let control_plane = ControlPlane::start().await;
        let app = strict(engine)
            .config(|config| control_plane.configure(config))
            .start()
            .await;
        let one = Agent::start(&app, json!({ "name": "one" })).await;
        let path = format!("/workspaces/{}/terminal", one.id);
        let refused = async |cookie: &str, origin: Option<&str>| {
            let mut headers = vec![("cookie", cookie)];
            headers.extend(origin.map(|origin| ("origin", origin)));
            Socket::open(&app, &path, &headers).await.err().map(|(status, _)| status)
        };
        let past_the_gate = Some(501);
        for (origin, expected) in [
            (Some(app.url.as_str()), past_the_gate),
            (Some(PAGE), past_the_gate),
            (None, Some(403)),
            (Some("null"), Some(403)),
            (Some("https://evil.example"), Some(403)),
            (Some("http://localhost:3000.evil.example"), Some(403)),
        ] {
            assert_eq!(refused(GOOD, origin).await, expected, "{origin:?}");
        }
        assert_eq!(refused("session=stranger", Some(PAGE)).await, Some(401));
        app.shutdown().await;
    }

    async fn a_ticket_of_nobody_opens_nothing(engine: Engine) {
        // Given tickets of which an older server did not write down whose they are
        let app = strict(engine).start().await;
        let one = Agent::start(&app, json!({ "name": "one" })).await;
        for body in [json!({}), json!({ "workspace_id": one.id })] {
            for path in [format!("/workspaces/{}/terminal", one.id), "/ws".to_owned()] {
                let asked = app.post("/ws/ticket", body.clone()).bearer(ADMIN);
                let reply = asked.send().await.json();
                let path = format!("{path}?ticket={}", reply["ticket"].as_str().expect("a ticket"));
                app.database.execute("UPDATE websocket_tickets SET issued_to = NULL").await;
                let refused = Socket::open(&app, &path, &[("origin", PAGE)]).await.err();
                assert_eq!(refused.map(|(status, _)| status), Some(401), "{path}");
            }
        }
        app.shutdown().await;
    }

    async fn who_may_not_is_told_before_anything_else(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::start(&app, json!({ "name": "one" })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        let far = app.create(json!({ "name": "far", "external": true })).await;
        let admin = format!("Bearer {ADMIN}");
        let foreign = format!("Bearer {}", other.token);
        let unavailable = "terminal unavailable on this deployment";
        let no_page = "this page may not open a terminal";
        let refused = async |id: &str, query: &str, headers: &[(&str, &str)]| {
            let path = format!("/workspaces/{id}/terminal{query}");
            Socket::open(&app, &path, headers).await.err()
        };
        let auth = "authorization";
        for (id, query, headers, expected) in [
            (one.id.as_str(), "", vec![], error(401, "missing workspace auth token")),
            (&one.id, "", vec![(auth, foreign.as_str())], error(401, "invalid workspace auth token")),
            (&one.id, "?ticket=nope", vec![], error(401, "invalid or expired ticket")),
            (&one.id, "", vec![(auth, &admin), ("origin", "http://localhost:3001.evil.com")], Some((403, String::new()))),
            ("nope", "", vec![(auth, &admin)], error(400, "invalid workspace ID")),
            (&one.id, "?cols=0", vec![(auth, &admin)], error(400, "invalid terminal size")),
            (&one.id, "?rows=x", vec![(auth, &admin)], error(400, "invalid terminal size")),
            (UNKNOWN, "", vec![(auth, &admin)], error(404, "workspace not found")),
            (&far, "", vec![(auth, &admin)], error(501, unavailable)),
            (&one.id, "", vec![(auth, &admin)], error(501, unavailable)),
            (&one.id, "", vec![(auth, &admin), ("origin", PAGE)], error(501, unavailable)),
        ] {
            assert_eq!(refused(id, query, &headers).await, expected, "{id} {query} {headers:?}");
        }
        let own = format!("Bearer {}", one.token);
        assert_eq!(refused(&one.id, "", &[(auth, &own)]).await, error(501, unavailable));
        // Two origins are no origin that could be judged.
        let two = [(auth, admin.as_str()), ("origin", PAGE), ("origin", PAGE)];
        assert_eq!(refused(&one.id, "", &two).await, error(403, no_page));
        // No upgrade, no terminal.
        let path = format!("/workspaces/{}/terminal", one.id);
        assert_eq!(app.get(&path).bearer(ADMIN).send().await.status, 400);
        let path = format!("/workspaces/{}?confirm=true", one.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        assert_eq!(refused(&one.id, "", &[(auth, &admin)]).await, error(404, "workspace not found"));
        app.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_opens_one_terminal_and_ends_with_its_issuer() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let app = world.app();
    // Given a ticket that an org token asked for
    let minted = app
        .post("/org/tokens", json!({ "name": "ops" }))
        .bearer(ADMIN);
    let minted = minted.send().await.json();
    let (id, token) = (minted["id"].as_str(), minted["auth_token"].as_str());
    let (id, token) = (id.expect("an id"), token.expect("a token"));
    let ticket = async |body| {
        let reply = app.post("/ws/ticket", body).bearer(token).send().await;
        reply.json()["ticket"]
            .as_str()
            .expect("a ticket")
            .to_owned()
    };
    let first = ticket(json!({ "workspace_id": one.id })).await;
    let query = format!("?ticket={first}");
    let page = [("origin", PAGE)];
    let mut term = Term::open(app, &one.id, &query, &page)
        .await
        .expect("a terminal");
    term.types("echo there-$((1 + 1))").await;
    term.until("there-2").await;
    // Which works once.
    let again = Term::open(app, &one.id, &query, &page).await.err();
    assert_eq!(again, error(401, "invalid or expired ticket"));
    let late = ticket(json!({})).await;

    // When the token is revoked
    let path = format!("/org/tokens/{id}");
    let reply = app.delete(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);

    // Then the terminal ends, and what the token had issued opens nothing
    let (_, closed) = term.end().await;
    assert_eq!(
        closed,
        Some((1008, "credentials are no longer valid".to_owned()))
    );
    let end = world.closed(&one).await;
    assert_eq!(end["reason"], "revoked");
    assert!(
        end["by"]
            .as_str()
            .is_some_and(|by| by.starts_with("org-token:")),
        "{end}"
    );
    let late = Term::open(app, &one.id, &format!("?ticket={late}"), &page)
        .await
        .err();
    assert_eq!(late, error(401, "invalid or expired ticket"));
    one.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_has_room_for_four_terminals() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let two = world.workspace(json!({})).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(world.terminal(&one).await);
    }
    let text = "too many terminals are open, close one or try again later";
    assert_eq!(
        world.terminal_as(&one, ADMIN, "").await.err(),
        error(503, text)
    );
    world.terminal(&two).await;
    let mut last = open.pop().expect("one");
    last.types("exit").await;
    last.end().await;
    world.closed(&one).await;
    world.terminal(&one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_leave_room_for_their_operators() {
    let Some(mut world) = World::new().await else {
        return;
    };
    // Given an agent that opens as many terminals of its own as it can
    let one = world.workspace(json!({})).await;
    let token = one.token();
    let mut own = Vec::new();
    for _ in 0..2 {
        let opened = world.terminal_as(&one, &token, "").await;
        own.push(opened.expect("a terminal"));
    }
    let text = "too many terminals are open, close one or try again later";
    let refused = world.terminal_as(&one, &token, "").await.err();
    assert_eq!(refused, error(503, text));
    // A ticket of its own changes nothing.
    let body = json!({ "workspace_id": one.id });
    let ticket = world.app().post("/ws/ticket", body).bearer(&token);
    let ticket = ticket.send().await.json();
    let query = format!("?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    let page = [("origin", PAGE)];
    let refused = Term::open(world.app(), &one.id, &query, &page).await.err();
    assert_eq!(refused, error(503, text));

    // Then there is room for as many operators as ever
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(world.terminal(&one).await);
    }
    let refused = world.terminal_as(&one, ADMIN, "").await.err();
    assert_eq!(refused, error(503, text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_credential_ends_a_terminal_also_after_trouble_with_the_database() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let one = world.workspace(json!({})).await;
    let app = world.app();
    let minted = app.post("/org/tokens", json!({})).bearer(ADMIN);
    let minted = minted.send().await.json();
    let (id, token) = (minted["id"].as_str(), minted["auth_token"].as_str());
    let token = token.expect("a token");
    let mut term = world
        .terminal_as(&one, token, "")
        .await
        .expect("a terminal");

    // When it is revoked, and nobody can be asked about it
    let rename = async |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        app.database.execute(&sql).await;
    };
    let revoked = "UPDATE org_api_tokens SET revoked_at = created_at";
    app.database.execute(revoked).await;
    rename("org_api_tokens", "lost_tokens").await;
    // Whatever becomes of it, from now on the server asks again.
    let path = format!("/org/tokens/{}", id.expect("an id"));
    let reply = app.delete(&path).bearer(ADMIN).send().await;
    assert!(reply.status >= 500, "{}", reply.text);

    // Then the terminal goes on, past the time at which it is asked for its right
    term.types("sleep 6; echo slept-$((1 + 1))").await;
    term.until("slept-2").await;

    // And ends as soon as there is an answer.
    rename("lost_tokens", "org_api_tokens").await;
    let (_, closed) = term.end().await;
    let why = "credentials are no longer valid".to_owned();
    assert_eq!(closed, Some((1008, why)));
    assert_eq!(world.closed(&one).await["reason"], "revoked");
    one.is_quiet().await;
}
