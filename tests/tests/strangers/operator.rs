//! Somebody compiles a server with that hook and runs it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{DEADLINE, Running, alone, run_alone, said};
use crate::story::{Story, packages};

/// The echo agent, built together with the tests.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_fault-agent");
const SECRETS: [(&str, &str); 2] = [
    ("ADMIN_TOKEN", "a-token-of-this-test"),
    ("SECRETS_ENCRYPTION_KEY", "0123456789abcdef0123456789abcdef"),
];

/// Runs a server with this `hooks` section until the closure is through.
pub(crate) fn with_server(
    binary: &Path,
    folder: &Path,
    hooks: &str,
    act: impl AsyncFnOnce(&Api, &mut Running),
) {
    let yaml = format!(
        "environment: development\ndata_dir: try-data\nserver: {{ address: 127.0.0.1, port: 0 }}\n\
         backend: {{ kind: process, process: {{ command: [{AGENT:?}] }} }}\nhooks:\n{hooks}"
    );
    fs::write(folder.join("try.yaml"), yaml).unwrap();
    let mut command = alone(binary, folder, &SECRETS);
    command.args(["serve", "--config", "try.yaml"]);
    let mut server = Running::start(&mut command);
    let address = server.wait_for(0, "listening address=");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = Api::new(&address);
    let acted = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(act(&api, &mut server));
    }));
    // Agents are processes of their own and would stay.
    runtime.block_on(api.remove_all());
    if let Err(panic) = acted {
        resume_unwind(panic);
    }
    assert_eq!(server.end("TERM"), Some(0), "{}", server.said());
}

/// Asks a server as its administrator.
pub(crate) struct Api {
    http: reqwest::Client,
    base: String,
}

impl Api {
    fn new(address: &str) -> Self {
        Self {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            base: format!("http://{address}"),
        }
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.base);
        let mut request = self
            .http
            .request(method.parse().unwrap(), url)
            .timeout(DEADLINE)
            .bearer_auth(SECRETS[0].1);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.send("GET", path, None).await
    }

    pub(crate) async fn create(&self, name: &str) -> String {
        let body = json!({ "name": name, "runtime": "echo" });
        let created = self.send("POST", "/workspaces", Some(body)).await;
        created["id"].as_str().unwrap().to_owned()
    }

    /// The row of a workspace as soon as it has the status.
    pub(crate) async fn wait_for(&self, id: &str, status: &str) -> Value {
        let started = Instant::now();
        loop {
            let list = self.get("/workspaces").await;
            let mut rows = list.as_array().unwrap().iter();
            let row = rows.find(|row| row["id"] == id).unwrap().clone();
            if row["status"] == status {
                return row;
            }
            assert!(started.elapsed() < DEADLINE, "never {status}: {row:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the agent answers to a text.
    pub(crate) async fn say(&self, id: &str, text: &str) -> String {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "message/send",
            "params": { "message": {
                "role": "user", "messageId": "m", "parts": [{ "kind": "text", "text": text }],
            }},
        });
        let url = format!("{}/workspaces/{id}/a2a", self.base);
        let started = Instant::now();
        loop {
            let request = self.http.post(&url).bearer_auth(SECRETS[0].1).json(&body);
            let response = request.timeout(DEADLINE).send().await.unwrap();
            let status = response.status();
            let answer = response.text().await.unwrap();
            // An agent may be faster than its start, and gets no messages until then.
            if status == 503 && started.elapsed() < DEADLINE {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let text = answer["result"]["parts"][0]["text"].as_str();
            return text
                .unwrap_or_else(|| panic!("{status}: {answer}"))
                .to_owned();
        }
    }

    /// Ends the agents: they are processes of their own.
    async fn remove_all(&self) {
        for row in self.get("/workspaces").await.as_array().unwrap() {
            let id = row["id"].as_str().unwrap();
            let path = format!("/workspaces/{id}?confirm=true&purge=true");
            self.send("DELETE", &path, None).await;
        }
    }
}

fn as_json(binary: &Path, folder: &Path, arguments: &[&str]) -> Value {
    let output = run_alone(binary, folder, arguments, &[]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list
        .as_array()
        .and_then(|list| list.iter().find(|entry| entry["name"] == name));
    found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
}

/// `config check` with a `hooks` section; its exit code and what it said.
fn check(binary: &Path, folder: &Path, hooks: &str) -> (Option<i32>, String) {
    let yaml = format!("environment: development\nbackend: {{ kind: none }}\nhooks:\n{hooks}");
    fs::write(folder.join("check.yaml"), yaml).unwrap();
    let output = run_alone(
        binary,
        folder,
        &["config", "check", "--config", "check.yaml"],
        &[],
    );
    (output.status.code(), said(&output))
}

#[test]
fn a_server_from_the_template_boots_a_workspace_with_the_variable_of_that_hook() {
    // given a hook crate and a server, both from their templates
    let story = Story::begin("server");
    story.make("new-hook", &["acme-address"]);
    story.make("new-server", &["acme-server"]);

    // when the operator adds the two lines, configures the hook and tells the test
    story.add_hook("acme-server", "acme-address", true);
    story.edit(
        "acme-server/molecule.yaml",
        "  config:\n",
        "  config:\n    acme-address: { endpoint: https://a.example.com }\n",
    );
    story.edit(
        "acme-server/tests/server.rs",
        r#"["github-app-auth"]"#,
        r#"["acme-address", "github-app-auth"]"#,
    );

    // then the server's own tests pass,
    story.cargo_succeeds("acme-server", &["test"]);
    let (binary, folder) = (story.binary("acme-server"), story.path("acme-server"));

    // the binary says what it holds,
    let hooks = as_json(&binary, &folder, &["hooks", "--json"]);
    let hook = named(&hooks["hooks"], "acme-address");
    assert_eq!(hook["version"], "0.1.0");
    assert_eq!(hook["contract"]["current"], true, "{hook:#}");
    let info = as_json(&binary, &folder, &["build-info", "--json"]).to_string();
    assert!(
        info.contains("acme-address") && info.contains("acme-server"),
        "{info}"
    );

    // its configuration is right,
    let output = run_alone(&binary, &folder, &["config", "check"], &SECRETS);
    assert!(output.status.success(), "{}", said(&output));

    // and an agent finds the variable.
    let hooks = "  config:\n    acme-address: { endpoint: https://a.example.com }\n";
    with_server(&binary, &folder, hooks, async |api, _| {
        let id = api.create("first").await;
        api.wait_for(&id, "online").await;
        let heard = api.say(&id, "env ACME_ADDRESS_ENDPOINT").await;
        assert_eq!(heard, "ACME_ADDRESS_ENDPOINT is set (21 bytes)");
    });

    a_misspelled_key_is_named(&binary, &folder);
    a_section_without_its_hook_names_the_two_lines(&binary, &folder);
}

fn a_misspelled_key_is_named(binary: &Path, folder: &Path) {
    let hooks = "  config:\n    acme-address: { endpont: https://a.example.com }\n";
    let (code, said) = check(binary, folder, hooks);
    assert_eq!(code, Some(78), "{said}");
    for part in ["acme-address", "\"endpont\"", "did you mean \"endpoint\"?"] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

fn a_section_without_its_hook_names_the_two_lines(binary: &Path, folder: &Path) {
    let (code, said) = check(binary, folder, "  config:\n    acme-vault: { url: x }\n");
    assert_eq!(code, Some(78), "{said}");
    for part in [
        "molecule-hook-acme-vault = ",
        "Cargo.toml",
        "use molecule_hook_acme_vault as _;",
        "main.rs",
        "acme-address",
    ] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

#[test]
fn every_hook_crate_of_ours_compiles_from_its_package_and_carries_a_current_verdict() {
    let story = Story::begin("all-hooks");
    story.make("new-server", &["acme-everything"]);
    let folders = fs::read_dir(packages().join("plugins")).unwrap();
    let names = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();

    // given a server with all of them, as somebody adds them who has only the packages
    let path = |folder: &str| packages().join(folder);
    let mut patches = "[patch.crates-io]\n".to_owned();
    for name in names.iter().filter(|name| *name != "github-app-auth") {
        let dependency = format!("[dependencies]\nmolecule-hook-{name} = \"0.1\"");
        story.edit("acme-everything/Cargo.toml", "[dependencies]", &dependency);
        let folder = path(&format!("plugins/{name}"));
        patches.push_str(&format!("molecule-hook-{name} = {{ path = {folder:?} }}\n"));
        story.name_hook("acme-everything", name);
    }
    story.edit(
        "acme-everything/Cargo.toml",
        "[patch.crates-io]\n",
        &patches,
    );

    // when it is built
    story.cargo_succeeds("acme-everything", &["build"]);

    // then they are all there, and say what the contract kit found of this version
    let binary = story.binary("acme-everything");
    let listed = as_json(&binary, &story.path(""), &["hooks", "--json"]);
    for name in &names {
        let hook = named(&listed["hooks"], name);
        assert_eq!(hook["contract"]["current"], true, "{hook:#}");
    }
    assert_eq!(listed["hooks"].as_array().unwrap().len(), names.len());
}
