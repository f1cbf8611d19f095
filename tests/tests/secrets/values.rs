//! The one route that answers with values.

use molecule_tests::support::{Agent, sql_id, strict};
use molecule_tests::{ADMIN, Engine, on_both_engines};
use serde_json::json;

use crate::requests::{admin, assert_saved, set};

on_both_engines! {
    async fn an_agent_gets_the_merge_of_global_and_own_values(engine: Engine) {
        let app = strict(engine).start().await;
        let pem = "-----BEGIN KEY-----\nline\r\n\tand \u{202e}right to left\u{7}\n";
        assert_saved(&set(&app, "/settings/secrets", "SHARED", "global-shared").await, "SHARED");
        assert_saved(&set(&app, "/settings/secrets", "ONLY_GLOBAL", "global-only").await, "ONLY_GLOBAL");
        let agent = Agent::start(&app, json!({
            "name": "one", "secrets": { "SHARED": "own-shared", "PEM": pem },
        })).await;
        let path = format!("/workspaces/{}/secrets/values", agent.id);
        let reply = app.get(&path).bearer(&agent.token).send().await;
        let expected = json!({ "SHARED": "own-shared", "PEM": pem, "ONLY_GLOBAL": "global-only" });
        assert_eq!((reply.status, reply.json()), (200, expected));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        // The boot got the same
        let env = app.backend.env(&agent.id);
        assert_eq!((env["SHARED"].as_str(), env["PEM"].as_str()), ("own-shared", pem));
        app.shutdown().await;
    }

    async fn only_the_agents_own_token_opens_it(engine: Engine) {
        let app = strict(engine).start().await;
        let own = Agent::start(&app, json!({ "name": "own", "secrets": { "KEY": "value-of-mine" } })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        let path = format!("/workspaces/{}/secrets/values", own.id);
        for (bearer, text) in [
            (Some(ADMIN), "invalid workspace auth token"),
            (Some(other.token.as_str()), "invalid workspace auth token"),
            (Some("nonsense"), "invalid workspace auth token"),
            (None, "missing workspace auth token"),
        ] {
            let request = app.get(&path);
            let reply = match bearer {
                Some(bearer) => request.bearer(bearer),
                None => request,
            }.send().await;
            reply.assert_error(401, text);
            assert!(!reply.text.contains("value-of-mine"));
        }
        app.shutdown().await;
    }

    async fn a_bundle_is_whole_or_refused_with_the_keys_that_failed(engine: Engine) {
        let app = strict(engine).start().await;
        for key in ["GOOD", "BAD", "WORSE"] {
            assert_saved(&set(&app, "/settings/secrets", key, "global-value").await, key);
        }
        let agent = Agent::start(&app, json!({
            "name": "one", "secrets": { "MINE": "own-value", "BROKEN": "own-value" },
        })).await;
        // Damaged, of an unknown version, and under a key that is not configured
        let damage = match engine {
            Engine::Sqlite => "X'00112233'",
            Engine::Postgres => "'\\x00112233'",
        };
        let foreign = match engine {
            Engine::Sqlite => "X'083031323334353637' || encrypted_value",
            Engine::Postgres => "'\\x083031323334353637'::bytea || encrypted_value",
        };
        let owner = sql_id(engine, &agent.id);
        for sql in [
            format!("UPDATE global_secrets SET encrypted_value = {damage} WHERE key = 'BAD'"),
            "UPDATE global_secrets SET encryption_version = 7 WHERE key = 'WORSE'".to_owned(),
            format!("UPDATE workspace_secrets SET encrypted_value = {foreign} WHERE workspace_id = {owner} AND key = 'BROKEN'"),
        ] {
            app.database.execute(&sql).await;
        }
        let path = format!("/workspaces/{}/secrets", agent.id);
        let reply = app.get(&format!("{path}/values")).bearer(&agent.token).send().await;
        assert_eq!((reply.status, reply.json()), (500, json!({
            "error": "one or more secrets failed to decrypt; refusing to return partial bundle",
            "failed_keys": ["global:BAD", "global:WORSE", "workspace:BROKEN"],
        })));
        // Lists need no key, and writing a new value heals
        assert_eq!(admin(&app, "GET", &path).await.json().as_array().map(Vec::len), Some(5));
        assert_saved(&set(&app, &path, "BROKEN", "healed").await, "BROKEN");
        assert_eq!(admin(&app, "DELETE", "/settings/secrets/BAD").await.status, 200);
        assert_saved(&set(&app, "/settings/secrets", "WORSE", "healed").await, "WORSE");
        // A boot fails rather than leave one out
        app.database.execute(&format!("UPDATE global_secrets SET encrypted_value = {damage} WHERE key = 'GOOD'")).await;
        let id = app.create(json!({ "name": "two" })).await;
        let row = app.wait_for_status(&id, "failed").await;
        assert_eq!(row["status"], "failed");
        let listed = app.listed(&id).await.expect("a row");
        assert_eq!(listed["last_sample_error"], "failed to decrypt global secret");
        app.shutdown().await;
    }
}
