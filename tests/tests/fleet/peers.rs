//! `GET /registry/{id}/peers`.

use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, fields, set_status, sql_id, strict};
use crate::{UNKNOWN, adopt, external, remove, renew_tree};

async fn peers(app: &TestApp, id: &str, query: &str) -> Vec<Value> {
    let reply = ask(app, id, query, ADMIN).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json().as_array().expect("an array").clone()
}

async fn ask(app: &TestApp, id: &str, query: &str, bearer: &str) -> Reply {
    app.get(&format!("/registry/{id}/peers{query}"))
        .bearer(bearer)
        .send()
        .await
}

fn names(peers: &[Value]) -> Vec<&str> {
    peers
        .iter()
        .map(|peer| peer["name"].as_str().expect("a name"))
        .collect()
}

async fn create(app: &TestApp, name: &str, role: Option<&str>, parent: Option<&str>) -> String {
    app.create(json!({ "name": name, "role": role, "parent_id": parent, "external": true }))
        .await
}

on_both_engines! {
    async fn siblings_come_first_then_children_then_the_parent(engine: Engine) {
        let app = strict(engine).start().await;
        let top = create(&app, "top", None, None).await;
        let other = create(&app, "another root", None, None).await;
        let me = create(&app, "me", None, Some(&top)).await;
        for name in ["sister", "brother"] {
            create(&app, name, None, Some(&top)).await;
        }
        let child = create(&app, "younger child", None, Some(&me)).await;
        create(&app, "elder child", None, Some(&me)).await;
        create(&app, "grandchild", None, Some(&child)).await;
        create(&app, "cousin", None, Some(&other)).await;
        assert_eq!(names(&peers(&app, &me, "").await), ["brother", "sister", "elder child", "younger child", "top"]);
        assert_eq!(names(&peers(&app, &top, "").await), ["another root", "brother", "me", "sister"]);
        assert_eq!(names(&peers(&app, &other, "").await), ["top", "cousin"]);
        assert_eq!(names(&peers(&app, &child, "").await), ["elder child", "grandchild", "me"]);
        // Whoever was removed is nobody's peer, with everybody below.
        remove(&app, &me).await;
        assert_eq!(names(&peers(&app, &top, "").await), ["another root", "brother", "sister"]);
    }

    async fn a_peer_has_exactly_the_documented_fields(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.put_in_containers();
        let me = Agent::online(&app, json!({ "name": "me" })).await;
        assert_eq!(ask(&app, &me.id, "", &me.token).await.text, "[]");
        let peer = Agent::online(&app, json!({ "name": "QA", "role": "tester", "tier": 2 })).await;
        let found = ask(&app, &me.id, "", &me.token).await.json();
        assert_eq!(found, json!([{
            "id": peer.id, "name": "QA", "role": "tester", "tier": 2, "status": "online",
            "agent_card": { "name": "agent" }, "url": format!("http://ws-{}:8000", &peer.id[..12]),
            "parent_id": null, "active_tasks": 0,
        }]));
        let bare = Agent::start(&app, json!({ "name": "bare" })).await;
        let found = peers(&app, &peer.id, "?q=bare").await;
        assert_eq!(fields(&found[0]).len(), 9);
        for field in ["role", "agent_card", "parent_id"] {
            assert_eq!(found[0][field], Value::Null, "{field}");
        }
        assert_eq!((&found[0]["id"], &found[0]["url"]), (&json!(bare.id), &json!("")));
    }

    async fn urls_are_those_that_discover_gives(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.put_in_containers();
        let me = Agent::online(&app, json!({ "name": "me" })).await;
        let url = |peer: String| {
            let (app, me) = (&app, &me);
            async move {
                let found = peers(app, &me.id, "?q=peer").await;
                let listed = found[0]["url"].as_str().expect("a URL").to_owned();
                let reply = app.get(&format!("/registry/discover/{peer}"))
                    .header("X-Workspace-ID", &me.id).bearer(&me.token).send().await;
                match reply.status {
                    200 => assert_eq!(reply.json()["url"], listed.as_str()),
                    _ => assert_eq!((reply.status, listed.as_str()), (503, "")),
                }
                listed
            }
        };
        let far = external(&app, "peer far", "https://1.1.1.1/agent").await;
        assert_eq!(url(far.clone()).await, "https://1.1.1.1/agent");
        for inside in ["http://localhost:1", "http://10.0.0.1", "http://[::1]"] {
            let sql = format!("UPDATE workspaces SET url = '{inside}' WHERE id = {}", sql_id(engine, &far));
            app.database.execute(&sql).await;
            assert_eq!(url(far.clone()).await, "", "{inside}");
        }
        remove(&app, &far).await;
        let near = Agent::online(&app, json!({ "name": "peer near" })).await;
        assert_eq!(url(near.id.clone()).await, format!("http://ws-{}:8000", &near.id[..12]));
        for state in ["offline", "paused", "hibernated", "provisioning"] {
            set_status(&app, engine, &near.id, state).await;
            assert_eq!(url(near.id.clone()).await, "", "{state}");
        }
    }

    async fn q_is_a_part_of_name_or_role_in_any_case_and_nothing_else(engine: Engine) {
        let app = strict(engine).start().await;
        let me = create(&app, "me", None, None).await;
        let all = [
            ("100% Sure", None),
            ("a_b", Some("Ops")),
            ("axb", None),
            ("back\\slash", None),
            ("Müller", Some("Größe")),
            ("QA", Some("tester")),
            ("quote'", None),
            ("rtl \u{200f}abc", None),
        ];
        for (name, role) in all {
            create(&app, name, role, None).await;
        }
        let table: [(&str, &[&str]); 17] = [
            ("", &["100% Sure", "QA", "a_b", "axb", "back\\slash"]),
            ("?q=qa", &["QA"]),
            ("?q=%20TEST%20", &["QA"]),
            ("?q=%25", &["100% Sure"]),
            ("?q=_", &["a_b"]),
            ("?q=a_b", &["a_b"]),
            ("?q=%5C", &["back\\slash"]),
            ("?q=%27", &["quote'"]),
            ("?q=M%C3%9CLL", &["Müller"]),
            ("?q=gr%C3%B6%C3%9Fe", &["Müller"]),
            ("?q=%E2%80%8F", &["rtl \u{200f}abc"]),
            ("?q=%00", &[]),
            ("?q=%FF", &[]),
            ("?q=%27%20OR%201%3D1%20--", &[]),
            ("?q=nobody", &[]),
            ("?q=ops&q=qa", &["a_b"]),
            ("?x=qa&q=ops", &["a_b"]),
        ];
        for (query, expected) in table {
            let found = peers(&app, &me, query).await;
            if query.is_empty() {
                assert_eq!(found.len(), all.len());
                assert!(expected.iter().all(|name| names(&found).contains(name)));
                continue;
            }
            assert_eq!(names(&found), expected, "{query}");
        }
        let long = format!("?q={}", "x".repeat(4000));
        assert!(peers(&app, &me, &long).await.is_empty());
        assert_eq!(peers(&app, &me, "?q=%20%20").await.len(), all.len(), "blank is no filter");
    }

    async fn parents_in_a_circle_are_listed_once(engine: Engine) {
        let app = strict(engine).start().await;
        let a = create(&app, "a", None, None).await;
        let b = create(&app, "b", None, Some(&a)).await;
        let own = create(&app, "own parent", None, None).await;
        adopt(&app, engine, &a, &b).await;
        adopt(&app, engine, &own, &own).await;
        renew_tree(&app).await;
        assert_eq!(names(&peers(&app, &a, "").await), ["b"]);
        assert_eq!(names(&peers(&app, &b, "").await), ["a"]);
        assert_eq!(names(&peers(&app, &own, "").await), Vec::<&str>::new());
    }

    async fn only_the_workspace_itself_and_administrators_see_them(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::online(&app, json!({ "name": "two" })).await;
        let gone = Agent::online(&app, json!({ "name": "gone" })).await;
        remove(&app, &gone.id).await;
        let path = format!("/registry/{}/peers", one.id);
        app.get(&path).send().await.assert_error(401, "missing workspace auth token");
        // The path says who asks; the header is nobody's business here.
        for bearer in ["garbage", &two.token, &gone.token] {
            app.get(&path).header("X-Workspace-ID", &two.id).bearer(bearer).send().await
                .assert_error(401, "invalid workspace auth token");
        }
        for bearer in [&one.token, ADMIN] {
            assert_eq!(ask(&app, &one.id, "", bearer).await.status, 200);
        }
        for id in [UNKNOWN, &gone.id, "one", "%00", "%FF"] {
            ask(&app, id, "", ADMIN).await.assert_error(404, "workspace not found");
        }
    }
}
