//! `initial_memories` of `POST /workspaces`.

use molecule_tests::support::{create, strict};
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::json;

const ALL: &str = "SELECT count(*) FROM agent_memories";

on_both_engines! {
    async fn memories_are_there_with_the_workspace_and_go_with_it(engine: Engine) {
        let app = strict(engine).start().await;
        let offered = json!([
            { "content": "likes tea", "scope": "team" },
            { "content": "speaks German" },
            { "content": "works\0 at\nnight", "scope": "" },
            { "content": "knows all", "scope": "Global", "extra": 1 },
            { "content": "nowhere", "scope": "galaxy" },
            { "content": "", "scope": "LOCAL" },
            { "scope": "LOCAL" },
            { "content": null, "scope": null },
        ]);
        for external in [false, true] {
            let name = format!("external: {external}");
            let body = json!({ "name": name, "external": external, "initial_memories": offered });
            let id = app.create(body).await;
            for (content, scope) in [
                ("likes tea", "TEAM"),
                ("speaks German", "LOCAL"),
                ("works at\nnight", "LOCAL"),
                ("knows all", "GLOBAL"),
            ] {
                let sql = format!(
                    "{ALL} WHERE content = '{content}' AND scope = '{scope}' AND namespace = 'workspace:{id}'"
                );
                assert_eq!(app.database.count(&sql).await, 1, "{content}");
            }
            assert_eq!(app.database.count(ALL).await, 4);
            let path = format!("/workspaces/{id}?purge=true");
            assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
            assert_eq!(app.database.count(ALL).await, 0);
        }
    }

    async fn a_memory_is_masked_and_then_cut_between_two_characters(engine: Engine) {
        let app = strict(engine).start().await;
        let secret = "a-value-nobody-may-read";
        let long = format!("{}é", "x".repeat(99_999));
        // The cut would go through the secret: it is masked first.
        let split = format!("{}{secret}", "y".repeat(99_990));
        let body = json!({
            "name": "one",
            "secrets": { "API_KEY": secret },
            "initial_memories": [
                { "content": format!("the key is {secret}, ghp_0123456789abcdefghijABCDEFGHIJ012345") },
                { "content": long },
                { "content": split },
            ],
        });
        assert_eq!(create(&app, body).await.status, 201);
        assert_eq!(app.database.count(ALL).await, 3);
        let rows = app.database.dump().await;
        for part in [secret, "ghp_0123456789", "a-value-no"] {
            assert!(!rows.contains(part), "{part}");
        }
        assert!(rows.contains("the key is [REDACTED]"));
        let lengths = format!("{ALL} WHERE octet_length(content) = 99999 AND content LIKE 'xxx%'");
        assert_eq!(app.database.count(&lengths).await, 1);
        let lengths = format!("{ALL} WHERE octet_length(content) = 100000 AND content LIKE 'yyy%'");
        assert_eq!(app.database.count(&lengths).await, 1);
    }

    async fn too_many_or_the_wrong_kind_is_refused_and_nothing_is_stored(engine: Engine) {
        let app = strict(engine).start().await;
        let flood: Vec<_> = (0..1001).map(|n| json!({ "content": format!("m{n}") })).collect();
        let reply = create(&app, json!({ "name": "one", "initial_memories": flood })).await;
        reply.assert_error(400, "invalid workspace fields");
        assert_eq!(reply.json()["detail"], "initial_memories: at most 1000 entries");
        for wrong in [json!("m"), json!([1]), json!([["a"]]), json!([{ "content": 1 }]), json!({})] {
            let reply = create(&app, json!({ "name": "one", "initial_memories": wrong })).await;
            reply.assert_error(400, "invalid workspace payload");
        }
        assert_eq!(app.database.count("SELECT count(*) FROM workspaces").await, 0);
        assert_eq!(app.database.count(ALL).await, 0);
        let body = json!({ "name": "one", "initial_memories": flood[..1000] });
        assert_eq!(create(&app, body).await.status, 201);
        assert_eq!(app.database.count(ALL).await, 1000);
        // A name that is taken takes no memories with it.
        let body = json!({ "name": "one", "initial_memories": flood[..3] });
        assert_eq!(create(&app, body).await.status, 409);
        assert_eq!(app.database.count(ALL).await, 1000);
        let body = json!({ "name": "two", "initial_memories": null });
        assert_eq!(create(&app, body).await.status, 201);
    }
}
