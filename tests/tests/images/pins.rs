//! `/admin/runtime-image-pins`.

use molecule_tests::fake_images::digest;
use molecule_tests::support::{Agent, assert_time, fields, raw};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::fleet::{admin, assert_row, in_secs, of_runtime, restart, started_times, with_images};

const PINS: &str = "/admin/runtime-image-pins";

async fn put(app: &TestApp, runtime: &str, body: Value) -> Reply {
    let request = app
        .request("PUT", &format!("{PINS}/{runtime}"))
        .bearer(ADMIN);
    request.json(body).send().await
}

async fn pin(app: &TestApp, runtime: &str, digit: char) -> Value {
    let reply = put(app, runtime, json!({ "digest": digest(digit).as_str() })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn roll_back(app: &TestApp, runtime: &str) -> Reply {
    admin(app, "POST", &format!("{PINS}/{runtime}/rollback")).await
}

/// The digests of the decisions, newest first.
async fn history(app: &TestApp, runtime: &str) -> Vec<Value> {
    let reply = admin(app, "GET", &format!("{PINS}/{runtime}/history")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let items = reply.json();
    let items = items.as_array().expect("a list").iter();
    items.map(|item| item["digest"].clone()).collect()
}

/// What is pinned, by runtime and digest.
async fn pinned(app: &TestApp) -> Vec<(String, String)> {
    let reply = admin(app, "GET", PINS).await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = reply.json();
    let list = list.as_array().expect("a list").iter();
    list.map(|item| (text(&item["template_name"]), text(&item["digest"])))
        .collect()
}

on_both_engines! {
    async fn a_pin_restarts_nothing_and_counts_from_the_next_boot(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        let other = Agent::online(&app, of_runtime("hermes")).await;
        let unpinned = digest('0');
        assert_row(&app, &agent.id, &format!("runtime_image_digest = '{unpinned}'")).await;

        let wanted = digest('a');
        let reply = put(&app, "codex", json!({ "digest": wanted.as_str(), "notes": "as tested" })).await;
        let mut body = reply.json();
        assert_time(&body["updated_at"].take());
        let reference = format!("registry.test/workspace-template-codex@{wanted}");
        let expected = json!({
            "template_name": "codex", "digest": wanted.as_str(), "reference": reference, "updated_at": null,
            "updated_by": "admin-token", "notes": "as tested", "needs_restart": 1,
        });
        assert_eq!((reply.status, body), (200, expected));
        let listed = admin(&app, "GET", PINS).await.json();
        let expected = json!([{ "digest": unpinned.as_str(), "workspaces": 1 }]);
        assert_eq!(listed[0]["running"], expected, "{listed}");
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);

        restart(&app, &agent.id).await;
        started_times(&app, &agent.id, 2).await;
        restart(&app, &other.id).await;
        started_times(&app, &other.id, 2).await;
        assert_eq!(app.backend.starts_of(&agent.id)[1].image_pin, Some(wanted.clone()));
        assert_eq!(app.backend.starts_of(&other.id)[1].image_pin, None);
        let asked = app.backend.images.obtained();
        assert!(asked.iter().any(|asked| asked.runtime == "codex" && asked.pin == Some(wanted.clone())));
        assert_row(&app, &agent.id, &format!("runtime_image_digest = '{wanted}'")).await;
        let listed = admin(&app, "GET", PINS).await.json();
        assert_eq!(listed[0]["running"], json!([{ "digest": wanted.as_str(), "workspaces": 1 }]));
        assert_eq!(pin(&app, "codex", 'a').await["needs_restart"], 0);
        // What an agent runs is nobody's business but the administrators'.
        let public = app.get(&format!("/workspaces/{}", agent.id)).send().await;
        assert!(!public.text.contains("sha256:"), "{}", public.text);
    }

    async fn the_way_back_leads_to_the_decision_before_also_to_none(engine: Engine) {
        let app = with_images(engine).start().await;
        assert_eq!(roll_back(&app, "codex").await.status, 409, "nothing was decided yet");
        pin(&app, "codex", 'a').await;
        let (a, b) = (json!(digest('a').as_str()), json!(digest('b').as_str()));
        let reply = roll_back(&app, "codex").await;
        assert_eq!((reply.status, &reply.json()["digest"]), (200, &Value::Null));
        assert_eq!(reply.json()["reference"], "registry.test/workspace-template-codex:latest");
        assert!(pinned(&app).await.is_empty());
        assert_eq!(roll_back(&app, "codex").await.json()["digest"], a, "undone");
        pin(&app, "codex", 'b').await;
        pin(&app, "codex", 'b').await;
        assert_eq!(roll_back(&app, "codex").await.json()["digest"], a, "a repetition is no other decision");
        let cleared = admin(&app, "DELETE", &format!("{PINS}/codex")).await;
        assert_eq!((cleared.status, &cleared.json()["digest"]), (200, &Value::Null));
        admin(&app, "DELETE", &format!("{PINS}/codex")).await.assert_error(404, "runtime is not pinned");
        let decided = [Value::Null, a.clone(), b, a.clone(), Value::Null, a];
        assert_eq!(history(&app, "codex").await, decided);
        let reply = admin(&app, "GET", &format!("{PINS}/codex/history")).await;
        let expected = ["digest", "notes", "reference", "template_name", "updated_at", "updated_by"];
        assert_eq!(fields(&reply.json()[0]).into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(history(&app, "hermes").await, [] as [Value; 0], "each runtime has its own");
    }

    async fn a_repetition_is_no_new_decision_and_does_not_bury_the_way_back(engine: Engine) {
        let app = with_images(engine).start().await;
        pin(&app, "codex", 'a').await;
        let first = pin(&app, "codex", 'b').await;
        // Again, it is the one of before, with its time.
        assert_eq!(pin(&app, "codex", 'b').await, first);
        for n in 0..60 {
            let body = json!({ "digest": digest('b').as_str(), "notes": format!("note {n}") });
            assert_eq!(put(&app, "codex", body).await.json()["notes"], format!("note {n}"));
        }
        assert_eq!(pin(&app, "codex", 'b').await["notes"], "note 59");
        let (a, b) = (json!(digest('a').as_str()), json!(digest('b').as_str()));
        assert_eq!(history(&app, "codex").await, [b, a.clone()]);
        assert_eq!(roll_back(&app, "codex").await.json()["digest"], a);
    }

    async fn what_is_no_runtime_digest_or_note_is_refused(engine: Engine) {
        let app = with_images(engine)
            .config(|config| {
                config.backend.docker.images.insert("mine".to_owned(), "registry.test/mine:1".to_owned());
            })
            .start()
            .await;
        let before = app.database.dump().await;
        let known = json!([
            "autogen", "claude-code", "codex", "crewai", "deepagents", "gemini-cli", "hermes", "langgraph",
            "mine", "openclaw",
        ]);
        let good = json!({ "digest": digest('a').as_str() });
        let paths = [
            ("PUT", "/unheard-of"), ("DELETE", "/unheard-of"), ("GET", "/unheard-of/history"),
            ("POST", "/unheard-of/rollback"),
        ];
        for (method, path) in paths {
            let request = app.request(method, &format!("{PINS}{path}")).bearer(ADMIN);
            let reply = request.json(good.clone()).send().await;
            let expected = json!({ "error": "unknown runtime: unheard-of", "known_runtimes": known });
            assert_eq!((reply.status, reply.json()), (400, expected), "{method} {path}");
            let path = path.replace("unheard-of", "a%00b");
            let request = app.request(method, &format!("{PINS}{path}")).bearer(ADMIN);
            assert_eq!(request.json(good.clone()).send().await.status, 400, "{method} {path}");
        }
        let long = put(&app, &"x".repeat(5000), good.clone()).await;
        assert!(long.status == 400 && long.error().len() < 100, "{}", long.text);
        let hex = "0123456789abcdef".repeat(4);
        let upper = hex.to_uppercase();
        for wrong in [
            String::new(), hex.clone(), format!("sha256:{upper}"), format!("sha512:{hex}"),
            format!("sha256:{hex}0"), format!("sha256:{}", &hex[1..]), format!(" sha256:{hex}"),
            format!("sha256:{hex}\n"), format!("repo@sha256:{hex}"),
        ] {
            let reply = put(&app, "codex", json!({ "digest": wrong })).await;
            reply.assert_error(400, "digest must be sha256: and 64 lower-case hexadecimal digits");
        }
        for notes in ["a\nb".to_owned(), "\0".to_owned(), "n".repeat(501)] {
            let reply = put(&app, "codex", json!({ "digest": digest('a').as_str(), "notes": notes })).await;
            reply.assert_error(400, "notes must be one line of at most 500 characters");
        }
        for body in [json!({}), json!([]), json!({ "digest": 5 }), json!({ "digest": null }),
                     json!({ "digest": digest('a').as_str(), "notes": 5 })] {
            put(&app, "codex", body).await.assert_error(400, "invalid request body");
        }
        assert_eq!(app.database.dump().await, before);
        assert_eq!(put(&app, "mine", good).await.status, 200, "the operator names its image");
    }

    async fn only_so_many_decisions_are_kept(engine: Engine) {
        let app = with_images(engine).start().await;
        pin(&app, "hermes", 'a').await;
        for n in 0..55 {
            pin(&app, "codex", char::from_digit(n % 10, 10).expect("a digit")).await;
        }
        let kept = history(&app, "codex").await;
        assert_eq!(kept.len(), 50);
        assert_eq!(kept[0], digest('4').as_str());
        assert_eq!(kept[49], digest('5').as_str());
        let rows = "SELECT count(*) FROM runtime_image_pin_history";
        assert_eq!(app.database.count(rows).await, 51);
        assert_eq!(history(&app, "hermes").await.len(), 1);
    }

    async fn decisions_of_many_at_once_are_one_history(engine: Engine) {
        let app = with_images(engine).start().await;
        pin(&app, "codex", 'f').await;
        let deciding = (0..24_u32).map(|n| {
            let app = &app;
            async move {
                let path = format!("{PINS}/codex");
                match n % 3 {
                    0 => drop(pin(app, "codex", char::from_digit(n % 10, 10).expect("a digit")).await),
                    1 => assert_eq!(roll_back(app, "codex").await.status, 200),
                    _ => assert!([200, 404].contains(&admin(app, "DELETE", &path).await.status)),
                }
            }
        });
        futures_util::future::join_all(deciding).await;
        let decided = history(&app, "codex").await;
        let present: Vec<_> = pinned(&app).await.into_iter().map(|(_, digest)| json!(digest)).collect();
        assert_eq!(decided[0], present.first().cloned().unwrap_or_default(), "the newest is the present one");
    }

    async fn only_administrators_decide_and_the_history_says_who(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        let before = app.database.dump().await;
        let path = format!("{PINS}/codex");
        let paths = [
            ("GET", PINS.to_owned()), ("PUT", path.clone()), ("DELETE", path.clone()),
            ("GET", format!("{path}/history")), ("POST", format!("{path}/rollback")),
        ];
        for (method, path) in &paths {
            let body = json!({ "digest": digest('a').as_str() });
            let stranger = app.request(method, path).json(body.clone()).send().await;
            assert_eq!(stranger.status, 401, "{method} {path}: {}", stranger.text);
            let agent = app.request(method, path).bearer(&agent.token).json(body).send().await;
            assert_eq!(agent.status, 401, "{method} {path}: {}", agent.text);
        }
        assert_eq!(app.database.dump().await, before);
        let minted = app.post("/org/tokens", json!({ "name": "ci" })).bearer(ADMIN).send().await.json();
        let token = minted["auth_token"].as_str().expect("a token");
        let request = app.request("PUT", &path).bearer(token);
        let reply = request.json(json!({ "digest": digest('b').as_str() })).send().await;
        let who = format!("org-token:{}", minted["prefix"].as_str().expect("a prefix"));
        assert_eq!((reply.status, &reply.json()["updated_by"]), (200, &json!(who)));
        let decided = admin(&app, "GET", &format!("{path}/history")).await.json();
        assert_eq!(decided[0]["updated_by"], json!(who));
    }

    async fn pins_outlive_the_server_and_a_runtime_that_is_no_longer_named(engine: Engine) {
        let named = |config: &mut molecule_core::Config| {
            config.backend.docker.images.insert("mine".to_owned(), "registry.test/mine:1".to_owned());
        };
        let app = with_images(engine).config(named).start().await;
        pin(&app, "mine", 'a').await;
        pin(&app, "codex", 'c').await;
        let (database, dir) = app.shutdown().await;
        let app = with_images(engine).start_on(database, dir).await;
        let (c, a) = (digest('c').to_string(), digest('a').to_string());
        assert_eq!(pinned(&app).await, [("codex".to_owned(), c), ("mine".to_owned(), a)]);
        let listed = admin(&app, "GET", PINS).await.json();
        assert_eq!(listed[1]["reference"], Value::Null, "nobody knows its image: {listed}");
        assert_eq!(history(&app, "mine").await.len(), 1);
        let cleared = admin(&app, "DELETE", &format!("{PINS}/mine")).await;
        assert_eq!(cleared.status, 200, "{}", cleared.text);
    }

    async fn who_works_on_an_image_gets_the_one_they_built(engine: Engine) {
        let app = with_images(engine)
            .config(|config| config.backend.docker.image_local_override = Some("1".to_owned()))
            .start()
            .await;
        pin(&app, "codex", 'a').await;
        let agent = Agent::start(&app, of_runtime("codex")).await;
        assert_eq!(app.backend.starts_of(&agent.id)[0].image_pin, None);
    }

    async fn a_pin_that_cannot_be_read_does_not_keep_a_workspace_from_starting(engine: Engine) {
        let app = with_images(engine).start().await;
        app.database.execute("DROP TABLE runtime_image_pins").await;
        let agent = Agent::start(&app, of_runtime("codex")).await;
        assert_eq!(app.backend.starts_of(&agent.id)[0].image_pin, None);
        assert_eq!(admin(&app, "GET", PINS).await.status, 500);
    }

    async fn the_database_itself_refuses_what_is_no_digest(engine: Engine) {
        let app = with_images(engine).start().await;
        let upper = digest('a').to_string().to_uppercase();
        for wrong in ["sha256:abc".to_owned(), upper, format!("{}0", digest('a'))] {
            let sql = format!(
                "INSERT INTO runtime_image_pins (template_name, digest, updated_at) VALUES ('x', '{wrong}', {})",
                in_secs(0),
            );
            let refused = app.database.try_execute(&sql).await;
            assert!(refused.is_err(), "{wrong}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_images_pins_can_be_decided_on_and_name_no_reference() {
    let app = molecule_tests::support::strict(Engine::Sqlite)
        .start()
        .await;
    let reply = put(&app, "codex", json!({ "digest": digest('a').as_str() })).await;
    assert_eq!(
        (reply.status, &reply.json()["reference"]),
        (200, &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_the_middle_has_decided_all_the_same() {
    let app = with_images(Engine::Sqlite).start().await;
    let body = json!({ "digest": digest('a').as_str() }).to_string();
    let request = format!(
        "PUT {PINS}/codex HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let asking = tokio::spawn({
        let (url, request) = (app.url.clone(), request.clone());
        async move {
            use tokio::io::AsyncWriteExt;
            let address = url.strip_prefix("http://").expect("an address").to_owned();
            let mut stream = tokio::net::TcpStream::connect(address)
                .await
                .expect("connect");
            stream.write_all(request.as_bytes()).await.expect("write");
        }
    });
    asking.await.expect("it was sent");
    eventually("the pin is there", || async {
        pinned(&app).await.len() == 1
    })
    .await;
    assert!(
        raw(&app, request.as_bytes())
            .await
            .starts_with("HTTP/1.1 200")
    );
}
