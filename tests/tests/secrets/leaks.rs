//! Values sent to every route, and looked for in the log, the rows and the replies.

use std::fs::File;
use std::process::{Child, Stdio};

use molecule_tests::{ADMIN, PATIENCE, Reply, Request, TestDatabase, on_both_engines};
use serde_json::{Value, json};

use crate::commands::Commands;

const KEY: &str = "new-key-new-key-new-key-new-key-";
const OLD_KEY: &str = "old-key-old-key-old-key-old-key-";
/// In every value; of no shape that anybody would recognise.
const MARK: &str = "plant-of-the-routes";

/// A server process that logs everything there is. Killed when dropped.
struct Server {
    url: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Server {
    async fn start(commands: &Commands) -> Self {
        let log = commands.write("log", "");
        let stderr = File::create(&log).expect("a file");
        let child = commands
            .command(&["serve"])
            .env("RUST_LOG", "trace")
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        let mut server = Self {
            url: String::new(),
            child,
            log,
        };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let log = server.log();
            let line = log
                .lines()
                .find(|line| line.contains("listening") && line.contains("address"));
            let port = line.and_then(|line| line.split_once("127.0.0.1:"));
            if let Some((_, rest)) = port {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                server.url = format!("http://127.0.0.1:{port}");
                return server;
            }
            assert!(tokio::time::Instant::now() < deadline, "{log}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    async fn send(&self, method: &str, path: &str, bearer: &str, body: Option<Value>) -> Reply {
        let url = format!("{}{path}", self.url);
        let request = Request::new(reqwest::Client::new(), method, &url).bearer(bearer);
        match body {
            Some(body) => request.json(body).send().await,
            None => request.send().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

on_both_engines! {
    async fn no_value_shows_in_the_log_in_a_row_or_in_a_reply(engine: Engine) {
        let database = TestDatabase::create(engine).await;
        let commands = Commands::new(&database, Some(KEY), &[OLD_KEY]);
        let server = Server::start(&commands).await;
        let mut replies = Vec::new();
        let created = server.send("POST", "/workspaces", ADMIN, Some(json!({ "name": "one" }))).await.json();
        let id = created["id"].as_str().expect("an id");
        let enrolment = created["enrolment_secret"].as_str().expect("a secret");
        let card = json!({ "id": id, "url": "http://localhost:1", "agent_card": {} });
        let registered = server.send("POST", "/registry/register", enrolment, Some(card)).await.json();
        let token = registered["auth_token"].as_str().expect("a token");
        let own = format!("/workspaces/{id}/secrets");
        let value = |what: &str| format!("{MARK}-{what}");
        let secret = |key: &str, what: &str| Some(json!({ "key": key, "value": value(what) }));
        for path in [own.as_str(), "/settings/secrets", "/admin/secrets", "/secrets/validate"] {
            for (key, what) in [("KEY", "first"), ("KEY", "second"), ("OTHER", "quoted \"\\ \n line two")] {
                replies.push(server.send("POST", path, ADMIN, secret(key, what)).await);
                assert_eq!(replies.last().map(|reply| reply.status), Some(200), "{path}");
            }
            // Wrong in every way, the value in every place
            for body in [
                json!({ "key": value("as key"), "value": "v" }), json!({ "key": "PATH", "value": value("path") }),
                json!({ "key": [value("list")], "value": "v" }), json!({ "key": "K", "value": { "x": value("map") } }),
                json!(value("alone")), json!({ "key": "K", "value": format!("{}\0", value("nul")) }),
            ] {
                replies.push(server.send("POST", path, ADMIN, Some(body)).await);
            }
            replies.push(server.send("GET", path, ADMIN, None).await);
            replies.push(server.send("DELETE", &format!("{path}/{MARK}"), ADMIN, None).await);
        }
        let values = server.send("GET", &format!("{own}/values"), token, None).await;
        assert_eq!((values.status, &values.json()["KEY"]), (200, &json!(value("second"))));
        // A bundle that does not open, and a database that refuses
        database.execute("UPDATE global_secrets SET encryption_version = 1").await;
        replies.push(server.send("GET", &format!("{own}/values"), token, None).await);
        assert_eq!(replies.last().map(|reply| reply.status), Some(500));
        database.execute("ALTER TABLE workspace_secrets RENAME TO elsewhere").await;
        replies.push(server.send("POST", &own, ADMIN, secret("KEY", "refused")).await);
        assert_eq!(replies.last().map(|reply| reply.status), Some(500));

        let log = server.log();
        drop(server);
        assert!(log.contains("failed to save secret"), "the log is there");
        let planted = |text: &str| text.lines().filter(|line| line.contains(MARK)).map(str::to_owned).collect::<Vec<_>>();
        // A key in a path is no value: it may be logged with the path.
        let logged: Vec<String> = planted(&log).into_iter()
            .filter(|line| line.contains(&format!("{MARK}-"))).collect();
        assert_eq!(logged, Vec::<String>::new());
        for reply in &replies {
            assert_eq!(planted(&reply.text), Vec::<String>::new());
        }
        assert_eq!(planted(&database.dump().await), Vec::<String>::new());
        for key in [KEY, OLD_KEY] {
            assert!(!log.contains(key), "an encryption key is in the log");
        }
    }
}
