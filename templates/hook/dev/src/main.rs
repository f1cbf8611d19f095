//! Runs the hook in a real server with one echo workspace and shows what the next boot
//! of the workspace would get from whom. `just dev` starts it again on every save.
//!
//! Ctrl-C removes the workspace. SIGTERM, which the loop sends, leaves it: the next
//! server compares its plan with what the agent has.
#![cfg_attr(not(test), deny(unused_crate_dependencies))]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use molecule_core::config::BackendChoice;
use molecule_core::{Config, Registry, Server};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

// The hook that is tried.
use molecule_hook_{{crate_name}} as _;

/// The word after which this program is the agent instead of the server.
const AGENT: &str = "agent";
const NAME: &str = "dev";
const ONLINE_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(AGENT) {
        return molecule_echo_agent::run_from_env(std::env::args().skip(2));
    }
    let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from);
    match runtime.and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut config = Config::load()?;
    // The workspace is a child process: this program, as the agent.
    let program = std::env::current_exe()?;
    let program = program
        .to_str()
        .context("the path of this program is not UTF-8")?;
    config.backend.kind = BackendChoice::Process;
    config.backend.process.command = vec![program.to_owned(), AGENT.to_owned()];
    config.workspaces.default_runtime = "echo".to_owned();
    let registry = Registry::from_linked(&config.hooks_config())?;
    for hook in registry.snapshot() {
        println!("hook       {hook:?}");
    }
    for hook in registry.skipped() {
        println!("hook       {hook} is not configured and does nothing; see dev/molecule.yaml");
    }
    let server = Server::builder(config, registry)
        .with_logs()
        .start()
        .await?;
    let client = Client::new(server.address().port())?;

    let interrupted = tokio::select! {
        shown = client.show() => match shown {
            Ok(()) => tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => false,
            },
            Err(error) => {
                server.shutdown().await;
                return Err(error);
            }
        },
        _ = interrupt.recv() => true,
        _ = terminate.recv() => false,
    };
    if interrupted {
        client.remove().await?;
    }
    server.shutdown().await;
    Ok(())
}

/// Asks the server.
struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    fn new(port: u16) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(ONLINE_TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            base: format!("http://127.0.0.1:{port}"),
        })
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_default();
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", answer["error"]);
        }
        Ok(answer)
    }

    async fn find(&self) -> anyhow::Result<Option<String>> {
        let list = self.call(Method::GET, "/workspaces", None).await?;
        let mut rows = list.as_array().into_iter().flatten();
        let row = rows.find(|row| row["name"] == NAME);
        Ok(row.and_then(|row| row["id"].as_str()).map(str::to_owned))
    }

    /// The workspace of the last time, or a new one.
    async fn workspace(&self) -> anyhow::Result<String> {
        if let Some(id) = self.find().await? {
            return Ok(id);
        }
        let body = json!({ "name": NAME, "runtime": "echo" });
        let created = self.call(Method::POST, "/workspaces", Some(body)).await?;
        let id = created["id"].as_str().context("the server gave no id")?;
        Ok(id.to_owned())
    }

    async fn remove(&self) -> anyhow::Result<()> {
        if let Some(id) = self.find().await? {
            let path = format!("/workspaces/{id}?confirm=true&purge=true");
            self.call(Method::DELETE, &path, None).await?;
            println!("workspace  {id} is removed");
        }
        Ok(())
    }

    async fn show(&self) -> anyhow::Result<()> {
        println!("server     {}", self.base);
        let id = self.workspace().await?;
        let status = self.status(&id).await?;
        println!("workspace  {id}, {status}");
        let path = format!("/admin/workspaces/{id}/env-plan");
        let plan = self.call(Method::GET, &path, None).await?;
        let keys = plan["keys"].as_array().into_iter().flatten();
        let (hooks, rest): (Vec<_>, Vec<_>) =
            keys.partition(|key| key["won_by"]["source"] == "hook");
        println!("\nthe next boot of the workspace gets from hooks");
        for key in hooks {
            println!("  {}", line(key));
        }
        let rest: Vec<_> = rest.iter().filter_map(|key| key["key"].as_str()).collect();
        println!("and from the platform {}", rest.join(", "));
        if plan["error"].is_object() {
            println!("and would fail: {}", plan["error"]["message"]);
        }
        for change in plan["booted"]["changes"].as_array().into_iter().flatten() {
            println!(
                "not yet in the running agent: {} {}",
                change["key"], change["change"]
            );
        }
        println!();
        Ok(())
    }

    /// `online`, or `failed` with the reason, as soon as it is one of them.
    async fn status(&self, id: &str) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            let path = format!("/workspaces/{id}");
            let workspace = self.call(Method::GET, &path, None).await?;
            let status = workspace["status"].as_str().unwrap_or_default();
            if ["online", "failed"].contains(&status) || started.elapsed() > ONLINE_TIMEOUT {
                let reason = workspace["last_sample_error"].as_str().unwrap_or_default();
                return Ok(format!("{status} {reason}").trim_end().to_owned());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// One variable and who wrote it. The server shows no value to anybody.
fn line(key: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let writer = &key["won_by"];
    let mut line = format!("{:32} {}", text(&key["key"]), text(&writer["hook"]));
    if key["present"] == false {
        line.push_str(" (removed)");
    }
    if key["sensitive"] == true {
        line.push_str(" (secret)");
    }
    if let Some(end) = key["expires_at"].as_str() {
        line.push_str(&format!(" until {end}"));
    }
    line
}
