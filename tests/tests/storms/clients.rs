//! Clients that go on whatever the server answers, and remember what it promised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use molecule_tests::support::{Agent, assert_unavailable};
use molecule_tests::{ADMIN, Reply, TestApp, eventually};
use serde_json::json;
use tokio::task::JoinSet;

use crate::tools::{act, external, row_has, set_secret};

const AGENTS: usize = 4;
/// A client that is not a machine in a loop.
const PAUSE: Duration = Duration::from_millis(20);

/// What was promised, and what was refused meanwhile.
#[derive(Default)]
struct Promised {
    stop: AtomicBool,
    served: AtomicUsize,
    refused: AtomicUsize,
}

impl Promised {
    /// True when it was done. Anything but a promise and the documented refusal is
    /// a fault.
    fn note(&self, what: &str, reply: &Reply) -> bool {
        if reply.status == 503 {
            assert_unavailable(reply);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        assert_eq!(reply.status, 200, "{what}: {}", reply.text);
        self.served.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Agents that beat and read their secrets, an administrator who writes secrets and
/// one who pauses and resumes.
pub(crate) struct Load {
    app: Arc<TestApp>,
    promised: Arc<Promised>,
    agents: Vec<Arc<Agent>>,
    vault: String,
    pausing: String,
    beats: JoinSet<(String, String)>,
    secrets: JoinSet<BTreeSet<String>>,
    pauses: JoinSet<()>,
}

impl Load {
    pub(crate) async fn begin(app: &Arc<TestApp>) -> Self {
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            agents.push(Arc::new(external(app, &format!("agent {number}")).await));
        }
        let vault = external(app, "vault").await.id;
        let pausing = external(app, "pausing").await.id;
        let mut load = Self {
            app: Arc::clone(app),
            promised: Arc::default(),
            agents,
            vault,
            pausing,
            beats: JoinSet::new(),
            secrets: JoinSet::new(),
            pauses: JoinSet::new(),
        };
        load.spawn();
        load
    }

    fn spawn(&mut self) {
        for agent in &self.agents {
            let (app, promised) = (Arc::clone(&self.app), Arc::clone(&self.promised));
            self.beats.spawn(beat(app, promised, Arc::clone(agent)));
        }
        let (app, promised) = (Arc::clone(&self.app), Arc::clone(&self.promised));
        self.secrets.spawn(write(app, promised, self.vault.clone()));
        let (app, promised) = (Arc::clone(&self.app), Arc::clone(&self.promised));
        self.pauses
            .spawn(pause(app, promised, self.pausing.clone()));
    }

    /// Answers so far: kept promises and refusals.
    pub(crate) fn answers(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.promised.served), read(&self.promised.refused))
    }

    /// Waits until clients are served again.
    pub(crate) async fn wait_until_served(&self) {
        let (before, _) = self.answers();
        eventually("clients are served again", async || {
            self.answers().0 > before + 4 * AGENTS
        })
        .await;
    }

    /// Ends the clients, and looks for everything that was promised to them.
    pub(crate) async fn end(mut self) {
        self.promised.stop.store(true, Ordering::Relaxed);
        let app = &self.app;
        while let Some(done) = self.beats.join_next().await {
            let (id, task) = done.expect("an agent");
            eventually("the last heartbeat is written", async || {
                row_has(&app.database, &id, &format!("current_task = '{task}'")).await
            })
            .await;
        }
        while let Some(done) = self.secrets.join_next().await {
            let kept = done.expect("a writer");
            let path = format!("/workspaces/{}/secrets", self.vault);
            let listed = app.get(&path).bearer(ADMIN).send().await.json();
            let listed: BTreeSet<String> = listed
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|secret| secret["key"].as_str().map(str::to_owned))
                .collect();
            assert!(
                listed.is_superset(&kept),
                "lost: {:?}",
                kept.difference(&listed)
            );
        }
        while let Some(done) = self.pauses.join_next().await {
            done.expect("somebody who pauses");
        }
        println!("served and refused: {:?}", self.answers());
    }
}

async fn beat(app: Arc<TestApp>, promised: Arc<Promised>, agent: Arc<Agent>) -> (String, String) {
    let mut last = String::new();
    let values = format!("/workspaces/{}/secrets/values", agent.id);
    for number in 0.. {
        let task = format!("task {number}");
        let reply = agent
            .beat(&app, json!({ "current_task": task }))
            .send()
            .await;
        if promised.note("a heartbeat", &reply) {
            last = task;
            // The last one is known to be answered.
            if !promised.goes_on() {
                break;
            }
        }
        let reply = app.get(&values).bearer(&agent.token).send().await;
        promised.note("values", &reply);
        tokio::time::sleep(PAUSE).await;
    }
    (agent.id.clone(), last)
}

async fn write(app: Arc<TestApp>, promised: Arc<Promised>, id: String) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    // A workspace has room for so many.
    for number in 0..90 {
        let key = format!("KEY_{number}");
        if promised.note("a secret", &set_secret(&app, &id, &key, "value").await) {
            kept.insert(key);
        }
        if !promised.goes_on() {
            break;
        }
        tokio::time::sleep(PAUSE * 4).await;
    }
    kept
}

/// Pauses and resumes, and believes every answer.
async fn pause(app: Arc<TestApp>, promised: Arc<Promised>, id: String) {
    // None after a refusal: it may have been done all the same.
    let mut paused = Some(false);
    for number in 0.. {
        let (what, after) = if number % 2 == 0 {
            ("pause", true)
        } else {
            ("resume", false)
        };
        let reply = act(&app, &id, what).await;
        match reply.status {
            200 => {
                assert_ne!(paused, Some(after), "{what} was lost");
                paused = Some(after);
            }
            404 => {
                assert_ne!(paused, Some(!after), "{what}: {}", reply.text);
                paused = Some(after);
            }
            _ => {
                promised.note(what, &reply);
                paused = None;
            }
        }
        if !promised.goes_on() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
