//! From an accepted row to a started agent, as named steps with undo.
//!
//! `load_secrets → build_env → run_hooks → check_required_env → render_config →
//! mint_credentials → start_backend → record_instance`
//!
//! A failed step takes back what the earlier ones did and leaves the row `failed`
//! with a fixed text. A shutdown in the middle takes back too, but leaves the row
//! `provisioning` without a lease: the next server starts over. A lease on the
//! row, renewed while the work runs, tells a provision under way from one whose
//! server died.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::FutureExt;
use molecule_hooks::{ChainError, EnvMap, Secret};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::model::{Status, Workspace};
use super::template::{self, CONFIG_FILE, ConfigFacts};
use super::{Services, agent_config, environment, store};
use crate::auth::mint;
use crate::backend::{
    BackendError, BackendKind, ConfigFile, Instance, InstanceRef, StartSpec, UndoStack,
};
use crate::error::Error;
use crate::events::EventType;
use crate::provlog::provlog;
use crate::secrets::{BundleError, aad};
use crate::store::timestamp;

/// A provision whose lease is older than this has no server any more.
const LEASE: TimeDelta = TimeDelta::seconds(30);
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Writing the outcome gets its own time, however late it is.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Each compensation may take this long.
const UNDO_TIMEOUT: Duration = Duration::from_secs(30);
/// File modes in the config volume.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// Runs provisions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Provisioner {
    services: Arc<Services>,
    slots: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<Uuid, UnderWay>>>,
}

struct UnderWay {
    cancel: CancellationToken,
    done: watch::Receiver<()>,
}

/// Why a provision failed: what may be shown, a bounded word for metrics, and the
/// cause for the log.
pub(super) struct Failure {
    text: String,
    class: &'static str,
    cause: String,
    missing: Vec<String>,
}

enum Outcome {
    Started,
    Failed(Failure),
    /// Cancelled by a delete or by shutdown, and taken back.
    Cancelled,
}

impl Provisioner {
    pub(super) fn new(services: Arc<Services>) -> Self {
        let slots = Arc::new(Semaphore::new(
            services.config.workspaces.provision_concurrency,
        ));
        Self {
            services,
            slots,
            under_way: Arc::default(),
        }
    }

    /// End of a lease taken now.
    pub(super) fn lease_until(&self) -> chrono::DateTime<chrono::Utc> {
        timestamp(&self.services.clock) + LEASE
    }

    /// Starts a provision in the background; one per workspace at a time.
    pub(super) fn spawn(&self, id: Uuid) {
        self.begin(id, false);
    }

    /// Starts over a provision whose server died, unless someone else does. A
    /// delete sees it from here on, also before the claim is decided.
    pub(super) fn take_over(&self, id: Uuid) {
        self.begin(id, true);
    }

    fn begin(&self, id: Uuid, abandoned: bool) {
        let cancel = self.services.supervisor.token().child_token();
        let (finished, done) = watch::channel(());
        {
            let mut under_way = self.lock();
            if under_way.contains_key(&id) {
                return;
            }
            under_way.insert(
                id,
                UnderWay {
                    cancel: cancel.clone(),
                    done,
                },
            );
        }
        let entry = Entry {
            provisioner: self.clone(),
            id,
            _finished: finished,
        };
        self.services.supervisor.spawn("provision", async move {
            let this = entry.provisioner.clone();
            if !abandoned || this.claim(id).await {
                this.run(id, cancel).await;
            }
            drop(entry);
        });
    }

    /// True when an abandoned provision is this server's now and nothing of it
    /// runs any more.
    async fn claim(&self, id: Uuid) -> bool {
        let services = &self.services;
        let now = timestamp(&services.clock);
        match store::claim_lease(&services.db, id, now, self.lease_until()).await {
            Ok(true) => {}
            // Another server was faster, or it was removed.
            Ok(false) => return false,
            Err(error) => {
                tracing::warn!(workspace.id = %id, %error, "provision could not be taken over");
                return false;
            }
        }
        tracing::warn!(workspace.id = %id, "provision was interrupted; starting over");
        match services.backend.stop(&InstanceRef::of(id)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(workspace.id = %id, error = %services.describe(error), "leftover could not be stopped");
                false
            }
        }
    }

    /// Cancels a provision under way and waits until it took itself back.
    pub(super) async fn cancel(&self, id: Uuid) {
        let Some(mut done) = self.lock().get(&id).map(|entry| {
            entry.cancel.cancel();
            entry.done.clone()
        }) else {
            return;
        };
        // Ends with an error when the sender is dropped, which is the signal.
        while done.changed().await.is_ok() {}
    }

    /// True while this server works on the workspace.
    pub(super) fn is_under_way(&self, id: Uuid) -> bool {
        self.lock().contains_key(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, id: Uuid, cancel: CancellationToken) {
        let started = Instant::now();
        let work = async {
            let Ok(_slot) = self.slots.acquire().await else {
                return Outcome::Cancelled;
            };
            self.provision(id, &cancel).await
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = self.keep_lease(id) => Outcome::Cancelled,
        };
        let word = match &outcome {
            Outcome::Started => "ok",
            Outcome::Failed(failure) => failure.class,
            Outcome::Cancelled => "cancelled",
        };
        metrics::counter!("molecule_provisions_total", "outcome" => word).increment(1);
        metrics::histogram!("molecule_provision_duration_seconds")
            .record(started.elapsed().as_secs_f64());
        match outcome {
            Outcome::Started => tracing::info!(
                workspace.id = %id,
                duration_ms = started.elapsed().as_millis() as u64,
                "workspace started"
            ),
            Outcome::Failed(failure) => self.fail(id, failure, started.elapsed()).await,
            Outcome::Cancelled => {
                let released = store::renew_lease(&self.services.db, id, None);
                let _ = tokio::time::timeout(OUTCOME_TIMEOUT, released).await;
                tracing::info!(workspace.id = %id, "provision cancelled and taken back");
            }
        }
    }

    /// Never ends: renews the lease for as long as it is polled.
    async fn keep_lease(&self, id: Uuid) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Err(error) =
                store::renew_lease(&self.services.db, id, Some(self.lease_until())).await
            {
                tracing::warn!(workspace.id = %id, %error, "provision lease could not be renewed");
            }
        }
    }

    async fn provision(&self, id: Uuid, cancel: &CancellationToken) -> Outcome {
        let services = &self.services;
        let workspace = match store::find(&services.db, id).await {
            Ok(Some(workspace)) if workspace.status() == Status::Provisioning => workspace,
            // Removed before it began.
            Ok(_) => return Outcome::Cancelled,
            Err(error) => {
                return Outcome::Failed(Failure::start("load_workspace", "store", &error));
            }
        };
        let template = self.template_of(&workspace).await;
        provlog(
            "provision.start",
            json!({
                "workspace_id": id,
                "name": workspace.name,
                "tier": workspace.tier,
                "runtime": workspace.runtime,
                "template": workspace.template.as_deref().unwrap_or_default(),
                "sync": false,
            }),
        );
        // The deadline cancels like a delete does, so that the backend undoes.
        let limit = Duration::from_secs(services.config.workspaces.provision_deadline_secs);
        let token = cancel.child_token();
        let deadline = {
            let token = token.clone();
            async move {
                tokio::time::sleep(limit).await;
                token.cancel();
                std::future::pending::<()>().await;
            }
        };
        let mut undo = UndoStack::default();
        let fenced =
            AssertUnwindSafe(self.steps(&workspace, template, &token, &mut undo)).catch_unwind();
        let result = tokio::select! {
            result = fenced => result.unwrap_or_else(|_| Err(Failure::panicked().into())),
            () = deadline => Err(Step::Cancelled),
        };
        match result {
            Ok(()) => Outcome::Started,
            Err(step) => {
                undo.unwind(UNDO_TIMEOUT).await;
                match step {
                    Step::Failed(failure) => Outcome::Failed(failure),
                    Step::Cancelled if cancel.is_cancelled() => Outcome::Cancelled,
                    Step::Cancelled => Outcome::Failed(Failure::deadline(limit)),
                }
            }
        }
    }

    async fn steps(
        &self,
        workspace: &Workspace,
        template: Option<PathBuf>,
        cancel: &CancellationToken,
        undo: &mut UndoStack,
    ) -> Result<(), Step> {
        let services = &self.services;
        let id = workspace.id;
        let secrets = unless(cancel, services.secrets.bundle(id)).await??;
        let mut env = environment::base(
            workspace,
            &secrets,
            services.config.workspaces.awareness_url.as_deref(),
        );
        unless(
            cancel,
            services.hooks.run(&workspace.hook_context(), &mut env),
        )
        .await??;
        let (config, facts) = self.config_of(workspace, template.as_deref()).await;
        check_required(&facts, &env)?;
        let files = unless(cancel, self.mint_credentials(id, config, undo)).await??;
        let spec = self.spec(workspace, &env, template, files);
        let instance = services.backend.start(&spec, cancel).await?;
        self.undo_start(id, &instance, undo);
        self.record(id, &instance).await
    }

    /// The template folder: the one it was created from, else the runtime's
    /// default, else none.
    async fn template_of(&self, workspace: &Workspace) -> Option<PathBuf> {
        let root = self.services.config.workspaces.templates_dir.as_deref()?;
        match &workspace.template {
            Some(name) => template::named(root, name).await,
            None => template::default_for(root, self.runtime_of(workspace)).await,
        }
    }

    fn runtime_of<'a>(&'a self, workspace: &'a Workspace) -> &'a str {
        agent_config::safe_runtime(
            &workspace.runtime,
            &self.services.config.workspaces.default_runtime,
        )
    }

    /// The generated `config.yaml`, if the template brings none, and what the
    /// effective one says.
    async fn config_of(
        &self,
        workspace: &Workspace,
        template: Option<&std::path::Path>,
    ) -> (Option<ConfigFile>, ConfigFacts) {
        if let Some(dir) = template
            && tokio::fs::try_exists(dir.join(CONFIG_FILE))
                .await
                .unwrap_or(false)
        {
            return (None, ConfigFacts::of_folder(dir).await);
        }
        let text = agent_config::render(workspace, self.runtime_of(workspace));
        let facts = ConfigFacts::parse(&text);
        (Some(file(CONFIG_FILE, text.into_bytes(), PUBLIC)), facts)
    }

    /// Revokes older tokens and mints the agent's own, in one transaction.
    async fn mint_credentials(
        &self,
        id: Uuid,
        config: Option<ConfigFile>,
        undo: &mut UndoStack,
    ) -> Result<Vec<ConfigFile>, Error> {
        let services = &self.services;
        let inbound: Secret = mint()?;
        services.redactor.learn(inbound.expose());
        let place = aad("workspaces", &id.to_string(), "inbound_secret");
        let sealed = services
            .secrets
            .cipher()
            .seal(inbound.expose().as_bytes(), &place)
            .map_err(|error| Error::internal("workspace start failed", error))?;
        let mut tx = services.db.begin().await?;
        services.auth.revoke_all(&mut tx, id).await?;
        let token = services.auth.issue(&mut tx, id).await?;
        store::set_inbound_secret(&mut tx, id, &sealed).await?;
        tx.commit().await?;
        services.auth.forget(id);
        let taking_back = Arc::clone(services);
        undo.push(
            "mint_credentials",
            async move { taking_back.revoke(id).await },
        );
        let private =
            |name: &str, secret: &Secret| file(name, secret.expose().as_bytes().to_vec(), PRIVATE);
        let mut files = vec![
            private(".auth_token", &token),
            private(".platform_inbound_secret", &inbound),
        ];
        files.extend(config);
        Ok(files)
    }

    fn spec(
        &self,
        workspace: &Workspace,
        env: &EnvMap,
        template_dir: Option<PathBuf>,
        files: Vec<ConfigFile>,
    ) -> StartSpec {
        let config = &self.services.config.workspaces;
        let dir = workspace.workspace_dir.as_ref().map(PathBuf::from);
        StartSpec {
            workspace_id: workspace.id,
            runtime: self.runtime_of(workspace).to_owned(),
            tier: u8::try_from(workspace.tier).unwrap_or(1),
            platform_url: self.services.platform_url.clone(),
            env: env
                .iter()
                .map(|(name, value)| (name.to_owned(), Secret::new(value)))
                .collect(),
            template_dir,
            files,
            workspace_dir: dir.or_else(|| config.workspace_dir.clone()),
            workspace_access: workspace.access(),
        }
    }

    /// Only first boots come here, so the storage is ours to take back as well.
    fn undo_start(&self, id: Uuid, instance: &Instance, undo: &mut UndoStack) {
        let backend = Arc::clone(&self.services.backend);
        let instance = InstanceRef {
            workspace_id: id,
            instance_id: Some(instance.instance_id.clone()),
        };
        undo.push("start_backend", async move {
            backend
                .stop(&instance)
                .await
                .map_err(|error| format!("{error:#}"))?;
            backend
                .remove_storage(id)
                .await
                .map_err(|error| format!("{error:#}"))
        });
    }

    async fn record(&self, id: Uuid, instance: &Instance) -> Result<(), Step> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        match store::record_instance(&services.db, id, instance, now).await {
            Ok(true) => Ok(()),
            // Removed while it started.
            Ok(false) => Err(Step::Cancelled),
            Err(error) => Err(Step::Failed(Failure::start(
                "record_instance",
                "store",
                &error,
            ))),
        }
    }

    async fn fail(&self, id: Uuid, failure: Failure, took: Duration) {
        let cause = self.services.redactor.redact(&failure.cause);
        tracing::error!(workspace.id = %id, reason = failure.class, cause, "provision failed");
        provlog(
            "provision.failed",
            json!({
                "workspace_id": id,
                "reason": failure.class,
                "duration_ms": took.as_millis() as u64,
            }),
        );
        let written = self
            .services
            .mark_failed(id, &failure.text, &failure.missing);
        match tokio::time::timeout(OUTCOME_TIMEOUT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(workspace.id = %id, ?error, "outcome not written; recovery will retry")
            }
            Err(_) => {
                tracing::error!(workspace.id = %id, "outcome not written in time; recovery will retry")
            }
        }
    }
}

/// Takes itself off the list, also when the task panics.
struct Entry {
    provisioner: Provisioner,
    id: Uuid,
    _finished: watch::Sender<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.provisioner.lock().remove(&self.id);
    }
}

enum Step {
    Failed(Failure),
    Cancelled,
}

/// Gives up waiting for `work` when `cancel` fires.
async fn unless<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Step> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Step::Cancelled),
        done = work => Ok(done),
    }
}

fn file(path: &str, content: Vec<u8>, mode: u32) -> ConfigFile {
    ConfigFile {
        path: path.to_owned(),
        content,
        mode,
    }
}

fn check_required(facts: &ConfigFacts, env: &EnvMap) -> Result<(), Failure> {
    let missing: Vec<String> = facts
        .required_env
        .iter()
        .filter(|name| env.get(name).is_none_or(str::is_empty))
        .cloned()
        .collect();
    let text = match missing.as_slice() {
        [] => return Ok(()),
        [one] => format!(
            "missing required env var \"{one}\" — add it under Config → Env Vars (or as a Global secret) and retry"
        ),
        several => format!(
            "missing required env vars {} — add them under Config → Env Vars (or as Global secrets) and retry",
            several.join(", ")
        ),
    };
    Err(Failure {
        cause: text.clone(),
        text,
        class: "missing_env",
        missing,
    })
}

impl Failure {
    fn new(text: &str, class: &'static str, cause: String) -> Self {
        Self {
            text: text.to_owned(),
            class,
            cause,
            missing: Vec::new(),
        }
    }

    fn start(step: &str, class: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self::new("workspace start failed", class, format!("{step}: {cause}"))
    }

    fn panicked() -> Self {
        Self::start("provision", "panic", &"panicked")
    }

    fn deadline(limit: Duration) -> Self {
        let cause = format!("not started within {} s", limit.as_secs());
        Self::start("deadline", "timeout", &cause)
    }
}

impl From<Failure> for Step {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<BundleError> for Step {
    fn from(error: BundleError) -> Self {
        let text = match error {
            BundleError::Store(_) => "workspace start failed".to_owned(),
            BundleError::Global(_) | BundleError::Workspace(_) => error.to_string(),
        };
        let cause = format!("load_secrets: {:#}", anyhow::Error::from(error));
        Failure::new(&text, "secrets", cause).into()
    }
}

impl From<ChainError> for Step {
    fn from(error: ChainError) -> Self {
        let cause = format!("provisionhook {:?}: {}", error.hook, error.cause.chain());
        Failure::new("plugin env mutator chain failed", "hook", cause).into()
    }
}

impl From<Error> for Step {
    fn from(error: Error) -> Self {
        Failure::start("mint_credentials", "credentials", &error.internal_context()).into()
    }
}

impl From<BackendError> for Step {
    fn from(error: BackendError) -> Self {
        if matches!(error, BackendError::Cancelled) {
            return Self::Cancelled;
        }
        let text = match error {
            BackendError::NotConfigured => NO_BACKEND,
            _ => "workspace start failed",
        };
        let class = error.class();
        Failure::new(
            text,
            class,
            format!("start_backend: {:#}", anyhow::Error::from(error)),
        )
        .into()
    }
}

/// Documented text of a server without a backend.
pub(super) const NO_BACKEND: &str = "no provisioning backend available — workspace requires either a \
     Docker daemon (self-hosted) or control-plane provisioner (SaaS)";

impl Services {
    /// Documented outcome of a failed provision: the event, then the row.
    pub(super) async fn mark_failed(
        &self,
        id: Uuid,
        text: &str,
        missing: &[String],
    ) -> Result<(), Error> {
        let mut payload = json!({ "error": text });
        if !missing.is_empty() {
            payload["missing"] = json!(missing);
        }
        self.fail_row(id, text, payload).await
    }

    /// As [`mark_failed`](Self::mark_failed), with a payload of its own.
    pub(super) async fn fail_row(
        &self,
        id: Uuid,
        text: &str,
        payload: serde_json::Value,
    ) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        if !store::mark_failed(&mut tx, id, text, timestamp(&self.clock)).await? {
            return Ok(());
        }
        let event = self
            .events
            .record(&mut tx, EventType::WorkspaceProvisionFailed, id, payload)
            .await?;
        tx.commit().await?;
        self.directory.forget(id);
        self.events.publish(event);
        Ok(())
    }

    /// Compensation of `mint_credentials`.
    async fn revoke(&self, id: Uuid) -> Result<(), String> {
        let revoking = async {
            let mut tx = self.db.begin().await?;
            self.auth.revoke_all(&mut tx, id).await?;
            tx.commit().await
        };
        let revoked = revoking
            .await
            .map_err(|error: sqlx::Error| error.to_string());
        self.auth.forget(id);
        revoked
    }

    /// True when this server starts no compute.
    pub(super) fn has_no_backend(&self) -> bool {
        self.backend.kind() == BackendKind::None
    }
}
