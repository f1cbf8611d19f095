//! The server, its one workspace, and what there is to see.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use molecule_core::molecule_hooks::{EnvMap, EnvSource, WorkspaceContext};
use molecule_core::{Registry, Server};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::client::{Api, message};
use crate::home::Home;
use crate::image;
use crate::setup::{self, Choices, RUNTIME, TOKEN_TTL_SECS};
use crate::transcript::{done, line, recognisable};

/// Name of the workspace; what this program deletes in a folder of the user's.
const NAME: &str = "Quickstart";
/// Isolation tier: the smallest with a resource limit of its own.
const TIER: u8 = 2;
const ONLINE_TIMEOUT: Duration = Duration::from_secs(30);
const ROTATION_TIMEOUT: Duration = Duration::from_secs(TOKEN_TTL_SECS + 10);
const POLL_EVERY: Duration = Duration::from_millis(100);

/// A running server and what is known about it.
pub(crate) struct Demo {
    home: Home,
    docker: bool,
    registry: Registry,
    server: Server,
    api: Api,
    /// Id of the workspace, once there is one.
    workspace: OnceCell<String>,
    /// URL of its agent, once it is online.
    agent: OnceCell<String>,
}

/// A live token as the server hands it out.
struct LiveToken {
    token: String,
    expires_at: DateTime<Utc>,
}

impl Demo {
    /// Starts the server and says so.
    pub(crate) async fn start(choices: Choices) -> anyhow::Result<Self> {
        let home = Home::open(choices.data_dir)?;
        let image = match choices.docker {
            true => {
                line("Building the image of the echo agent; the first time takes a minute…")?;
                Some(image::build().await?)
            }
            false => None,
        };
        let config = setup::config(&home, choices.port, image.as_deref())?;
        let registry = Registry::from_linked(&config.hooks_config())?;
        let admin_token = home.secret("admin-token")?;
        let server = Server::builder(config, registry.clone())
            .with_logs()
            .start()
            .await
            // Its text names the cause already.
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let base = format!("http://127.0.0.1:{}", server.address().port());
        let demo = Self {
            api: Api::new(base, admin_token)?,
            docker: choices.docker,
            workspace: OnceCell::new(),
            agent: OnceCell::new(),
            home,
            registry,
            server,
        };
        done(
            "server",
            &format!(
                "{}, SQLite in {}",
                demo.api.base(),
                demo.home.path().display()
            ),
        )?;
        if let Some(image) = image {
            done("image", &format!("{image}, made from this repository"))?;
        }
        Ok(demo)
    }

    /// The transcript: every line was checked before it is printed.
    pub(crate) async fn show(&self) -> anyhow::Result<()> {
        let hooks: Vec<String> = self
            .registry
            .snapshot()
            .iter()
            .map(|hook| format!("{} {}", hook.name(), hook.version()))
            .collect();
        done("hooks", &hooks.join(", "))?;
        let id = self.create_workspace().await?;
        let url = self.wait_until_online(&id).await?;
        self.agent.set(url.clone())?;
        self.show_variables(&id, &url).await?;
        let said = "hello, agent";
        let heard = self.api.say(&url, said).await?;
        ensure!(
            heard == format!("echo: {said}"),
            "the agent answered {heard:?} to {said:?}"
        );
        done("A2A", &format!("said {said:?}, heard {heard:?}"))?;
        self.show_tokens(&id).await
    }

    async fn create_workspace(&self) -> anyhow::Result<String> {
        let body = json!({ "name": NAME, "runtime": RUNTIME, "tier": TIER });
        let created = self.api.post("/workspaces", body).await?;
        let id = created["id"].as_str().context("the server gave no id")?;
        self.workspace.set(id.to_owned())?;
        let kind = match self.docker {
            true => "a container",
            false => "a child process",
        };
        done("workspace", &format!("{id}, {kind}"))?;
        Ok(id.to_owned())
    }

    /// The URL of the agent, as soon as it registered.
    async fn wait_until_online(&self, id: &str) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            let workspace = self.api.get(&format!("/workspaces/{id}")).await?;
            let status = workspace["status"].as_str().unwrap_or_default();
            let url = workspace["url"].as_str().unwrap_or_default();
            // A container first registers its name on the Docker network, which
            // means nothing here; the published port follows.
            let reachable = ["http://127.0.0.1:", "http://localhost:"]
                .iter()
                .any(|local| url.starts_with(local));
            if status == "online" && reachable {
                let took = started.elapsed().as_secs_f64();
                done("agent", &format!("online after {took:.1} s at {url}"))?;
                return Ok(url.to_owned());
            }
            if status == "failed" {
                bail!("the workspace failed to start: {}", self.reason(id).await);
            }
            if started.elapsed() > ONLINE_TIMEOUT {
                bail!(
                    "the agent was not online and reachable within {} s (status {status:?}, url {url:?})",
                    ONLINE_TIMEOUT.as_secs()
                );
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// What the server noted about a failed workspace.
    async fn reason(&self, id: &str) -> String {
        let list = self.api.get("/workspaces").await.unwrap_or_default();
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .find(|row| row["id"] == id)
            .and_then(|row| row["last_sample_error"].as_str())
            .unwrap_or("no reason was recorded")
            .to_owned()
    }

    /// Which hook set which variable, and that the agent really has it.
    ///
    /// The server runs the chain inside its own process and shows names only in
    /// its log. So the same chain runs here once more on an empty map, which
    /// remembers who wrote what; the agent is asked about the outcome.
    async fn show_variables(&self, id: &str, url: &str) -> anyhow::Result<()> {
        let mut workspace = WorkspaceContext::new(id).with_name(NAME);
        workspace.tier = TIER;
        workspace.runtime = RUNTIME.to_owned();
        let mut env = EnvMap::new();
        self.registry.run(&workspace, &mut env).await?;
        for (name, value) in env.iter() {
            let Some(EnvSource::Hook { name: hook, .. }) = env.provenance(name).last() else {
                continue;
            };
            let said = self.api.say(url, &format!("env {name}")).await?;
            let wanted = format!("{name} is set ({} bytes)", value.len());
            ensure!(
                said == wanted,
                "hook {hook} sets {name}, but the agent says: {said}"
            );
            done(
                "variable",
                &format!("{name:10} set by hook {hook:14} agent: {said:?}"),
            )?;
        }
        Ok(())
    }

    async fn show_tokens(&self, id: &str) -> anyhow::Result<()> {
        // Two callers at once get one token: the server keeps it for both.
        let (first, second) = tokio::try_join!(self.token(id), self.token(id))?;
        ensure!(
            first.token == second.token,
            "two callers at once got different tokens"
        );
        done(
            "token",
            &format!("{first}, the same for two callers at once"),
        )?;
        let started = Instant::now();
        loop {
            sleep(POLL_EVERY).await;
            let next = self.token(id).await?;
            if next.token != first.token {
                ensure!(
                    next.expires_at > first.expires_at,
                    "the new token does not live longer"
                );
                let took = started.elapsed().as_secs_f64();
                return done(
                    "rotation",
                    &format!("{next}, {took:.1} s later, no restart"),
                );
            }
            if started.elapsed() > ROTATION_TIMEOUT {
                bail!(
                    "the token did not change within {} s",
                    ROTATION_TIMEOUT.as_secs()
                );
            }
        }
    }

    /// An agent calls the same route with its own token.
    async fn token(&self, id: &str) -> anyhow::Result<LiveToken> {
        let path = format!("/workspaces/{id}/github-installation-token");
        let answer = self.api.get(&path).await?;
        let text = |field: &str| {
            let value = answer[field].as_str();
            value.with_context(|| format!("{path}: no {field}"))
        };
        Ok(LiveToken {
            token: text("token")?.to_owned(),
            expires_at: text("expires_at")?.parse()?,
        })
    }

    /// Commands to try while the server keeps running.
    pub(crate) fn say_how_to_go_on(&self) -> anyhow::Result<()> {
        let workspaces = format!("{}/workspaces", self.api.base());
        let known = |what: &OnceCell<String>| what.get().cloned().unwrap_or_default();
        let (id, agent) = (known(&self.workspace), known(&self.agent));
        let question = message("env GREETING");
        line(&format!(
            r#"
The server keeps running. In another terminal:

  export ADMIN_TOKEN={}
  curl -H "Authorization: Bearer $ADMIN_TOKEN" {workspaces}
  curl -H "Authorization: Bearer $ADMIN_TOKEN" {workspaces}/{id}/github-installation-token
  curl {agent} -d '{question}'

Ctrl-C deletes the workspace and ends the server."#,
            self.api.admin_token(),
        ))
    }

    /// Copies the agent's log to a place that outlives the workspace.
    pub(crate) async fn keep_agent_log(&self) {
        let Some(id) = self.workspace.get() else {
            return;
        };
        let log = match self.docker {
            true => image::logs(id).await,
            false => {
                let file = self.home.path().join("process").join(id).join("agent.log");
                fs::read(file).map_err(Into::into)
            }
        };
        let kept = std::env::temp_dir().join(format!("molecule-quickstart-{id}.log"));
        let said = match log.and_then(|text| Ok(fs::write(&kept, text)?)) {
            Ok(()) => format!("the agent's log: {}", kept.display()),
            Err(error) => format!("the agent left no log ({error:#})"),
        };
        // Whoever is reading the failure is not helped by a second one.
        let _ = line(&said);
    }

    /// Deletes the workspaces, stops the server and, with it, deletes a
    /// temporary folder.
    pub(crate) async fn clean_up(self) -> anyhow::Result<()> {
        let deleted = self.delete_workspaces().await;
        self.server.shutdown().await;
        deleted.context("not everything was cleaned up")
    }

    /// All of them when the database goes away too, which would leave containers
    /// that nobody knows; else what this program made, now or in an earlier run.
    async fn delete_workspaces(&self) -> anyhow::Result<()> {
        let list = self.api.get("/workspaces").await?;
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        for row in rows {
            let ours = self.home.is_temporary() || row["name"] == NAME;
            if let (true, Some(id)) = (ours, row["id"].as_str()) {
                let path = format!("/workspaces/{id}?confirm=true&purge=true");
                let answer: Value = self.api.delete(&path).await?;
                ensure!(answer["status"] == "purged", "DELETE {path}: {answer}");
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for LiveToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let until = self.expires_at.format("%H:%M:%S");
        write!(f, "{} until {until} UTC", recognisable(&self.token))
    }
}
