//! The steps of a provision and how each is taken back.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use molecule_hooks::{EnvMap, Secret};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::boot::{Boot, BootSource};
use super::super::env_plan::BootPlan;
use super::super::model::Workspace;
use super::super::store::lease::{self, Lease};
use super::super::store::lifecycle;
use super::super::template::{self, CONFIG_FILE, ConfigFacts};
use super::super::{agent_config, environment, restart_source, rules, store};
use super::attempt::Attempt;
use super::failure::{Failure, Step};
use super::{Provisioner, is_bootable};
use crate::auth::mint;
use crate::backend::{
    BackendError, BackendKind, ConfigFile, ExistingConfig, ImageRequest, Instance, InstanceRef,
    ObtainedImage, Plugins, Progress, StartSpec, UndoStack,
};
use crate::error::Error;
use crate::secrets::aad;
use crate::store::timestamp;

/// File modes in the config volume.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;
/// A backend that does not end what was cancelled is left to itself after this long.
const CANCEL_GRACE: Duration = Duration::from_secs(30);

impl Provisioner {
    pub(super) async fn steps(
        &self,
        lease: Lease,
        workspace: &Workspace,
        attempt: &Attempt,
        turn: &mut Option<OwnedSemaphorePermit>,
        undo: &mut UndoStack,
    ) -> Result<(), Step> {
        let (services, cancel) = (&self.services, attempt.token());
        // First, because it can take minutes: what the others find is not old then. And
        // before its turn: who waits for an image keeps nobody from starting.
        let mut image = self.obtain_image(workspace, attempt).await?;
        attempt.has_image();
        let slot = attempt.idle(Arc::clone(&self.slots).acquire_owned());
        *turn = unless(cancel, slot).await?.ok();
        let workspace = &self.take_request(lease, attempt).await?;
        let id = workspace.id;
        if let Some((request, _)) = &image
            && request.runtime != self.runtime_of(workspace)
        {
            // It became another one while the image was on its way.
            image = self.obtain_image(workspace, attempt).await?;
        }
        self.check_folder(workspace).await?;
        let boot = workspace.boot();
        let keeps = boot.source == BootSource::Existing;
        let template = self.template_of(workspace, &boot.source).await;
        if template.is_none() && needs_template(workspace, &boot.source) {
            return Err(Failure::no_template(id).into());
        }
        let secrets = unless(cancel, services.secrets.bundle(id)).await??;
        let mut env = environment::base(
            workspace,
            &secrets,
            services.config.workspaces.awareness_url.as_deref(),
        )
        .env;
        unless(
            cancel,
            services.hooks.run(&workspace.hook_context(), &mut env),
        )
        .await??;
        let (config, facts) = match keeps {
            true => (
                None,
                services.facts_of_agent(workspace).await.unwrap_or_default(),
            ),
            false => self.config_of(workspace, template.as_deref()).await,
        };
        check_required(&facts, &env)?;
        services.note_timeout(lease, &facts).await;
        let minting = self.mint_credentials(lease, config, attempt, undo);
        let files = unless(cancel, minting).await??;
        let mut spec = self.spec(workspace, &env, template, files);
        if let (BootSource::OrgTemplate(_), Some(root)) = (&boot.source, &spec.template_root) {
            spec.template_root = restart_source::org_templates(root);
        }
        spec.reset_session = boot.reset_session;
        if let Some((request, obtained)) = image {
            spec.image_pin = request.pin;
            spec.image = Some(obtained);
        }
        spec.progress = attempt.progress();
        if keeps {
            let fallback = spec.template_dir.take();
            spec.existing_config = Some(ExistingConfig { fallback });
        }
        spec.plugins = self.plugins_of(id, attempt).await;
        let plan = services.boot_plan(&spec, &env);
        let started = services.backend.start(&spec, cancel).await;
        if let Ok(instance) = &started {
            self.undo_start(workspace, instance, undo);
        }
        let instance = started.as_ref().ok();
        let instance = instance.map(|instance| instance.instance_id.clone());
        let started = started.map_err(|error| match error {
            BackendError::NoConfig => Failure::no_template(id).into(),
            error => Step::from(error),
        });
        let ended = match started {
            Ok(instance) => self.record(lease, &instance, plan).await,
            Err(step) => Err(step),
        };
        // What became of its plugins is for the one to say whose start counts.
        let instance = match &ended {
            Ok(()) => instance,
            Err(Step::Lost | Step::Cancelled) => return ended,
            Err(_) => None,
        };
        if let Some(supply) = spec.plugins.supply() {
            supply.ended(instance.as_deref()).await;
        }
        ended
    }

    /// The plugins that a workspace should have when its agent starts.
    async fn plugins_of(&self, id: Uuid, attempt: &Attempt) -> Plugins {
        match self.plugins.get().and_then(Weak::upgrade) {
            Some(supplies) => supplies.of(id, attempt.left(), attempt.progress()).await,
            None => Plugins::none(),
        }
    }

    /// Makes sure that there is an image to start. Nothing of an agent that runs has
    /// been touched by then.
    async fn obtain_image(
        &self,
        workspace: &Workspace,
        attempt: &Attempt,
    ) -> Result<Option<(ImageRequest, ObtainedImage)>, Step> {
        let services = &self.services;
        let Some(images) = services.backend.images() else {
            return Ok(None);
        };
        let runtime = self.runtime_of(workspace).to_owned();
        let request = ImageRequest {
            pin: services.images.pin_of(&runtime).await,
            runtime,
        };
        let (progress, cancel) = (attempt.progress(), attempt.token());
        let gave_up = async {
            cancel.cancelled().await;
            tokio::time::sleep(CANCEL_GRACE).await;
        };
        let obtained = tokio::select! {
            obtained = images.obtain(&request, &progress, cancel) => obtained,
            () = gave_up => Err(BackendError::Cancelled),
        };
        match obtained {
            Ok(image) => {
                if image.stale {
                    tracing::warn!(
                        workspace.id = %workspace.id, image = image.reference,
                        "the image may be old: there was no newer one to be had"
                    );
                }
                Ok(Some((request, image)))
            }
            Err(BackendError::Cancelled) => Err(Step::Cancelled),
            // One that is known by name can be there later, whatever is wrong now.
            Err(error) => {
                let is_known = images.reference(&request).is_ok();
                Err(Failure::image(error).passing(is_known).into())
            }
        }
    }

    /// Looks at the folder of the host again, now that it is about to be mounted.
    async fn check_folder(&self, workspace: &Workspace) -> Result<(), Failure> {
        let (services, Some(dir)) = (&self.services, &workspace.workspace_dir) else {
            return Ok(());
        };
        let docker = &services.config.backend.docker;
        let is_far = services.backend.kind() == BackendKind::Docker
            && !docker.daemon_host().starts_with("unix://");
        let checked = match is_far {
            // Folders of this machine say nothing about the daemon's.
            true => rules::check_dir(dir),
            false => rules::check_real_dir(dir).await,
        };
        checked.map_err(|detail| {
            let text = format!("invalid workspace directory: {detail}");
            Failure::new(&text, "workspace_dir", detail)
        })
    }

    /// Takes the request that this boot answers: whatever is changed from here on
    /// requests another one. Answers with the row as it is now.
    async fn take_request(&self, lease: Lease, attempt: &Attempt) -> Result<Workspace, Step> {
        let db = &self.services.db;
        let failed = |error: sqlx::Error| Failure::store("load_workspace", &error);
        // Overtaken, or removed in between.
        let until = self.lease_until();
        let taken = lifecycle::take_request(db, lease, until).await;
        match taken.map_err(failed)? {
            None => return Err(Step::Cancelled),
            Some(true) => attempt.had_request(),
            Some(false) => {}
        }
        match store::find(db, lease.id).await.map_err(failed)? {
            Some(workspace) if is_bootable(workspace.status()) => Ok(workspace),
            _ => Err(Step::Cancelled),
        }
    }

    /// What the configuration of the next boot requires, for an env plan.
    ///
    /// # Errors
    /// The text that the boot would fail with.
    pub(in super::super) async fn required_env(
        &self,
        workspace: &Workspace,
    ) -> Result<Vec<String>, String> {
        let boot = Boot::again(workspace.booted_at.is_some());
        if boot.source == BootSource::Existing {
            let facts = self.services.facts_of_agent(workspace).await;
            return Ok(facts.unwrap_or_default().required_env);
        }
        let template = self.template_of(workspace, &boot.source).await;
        if template.is_none() && needs_template(workspace, &boot.source) {
            return Err(Failure::no_template(workspace.id).text);
        }
        let (_, facts) = self.config_of(workspace, template.as_deref()).await;
        Ok(facts.required_env)
    }

    /// The template folder: the one its source names, else the one it was created
    /// from, else the runtime's default, else none. For a workspace that keeps its
    /// files: what they are recovered from should they be lost.
    async fn template_of(&self, workspace: &Workspace, source: &BootSource) -> Option<PathBuf> {
        let root = self.services.config.workspaces.templates_dir.as_deref()?;
        let runtime = self.runtime_of(workspace);
        match (source, &workspace.template) {
            (BootSource::Template(name), _) | (BootSource::Created, Some(name)) => {
                template::named(root, name).await
            }
            (BootSource::OrgTemplate(name), _) => {
                template::named(&restart_source::org_templates(root)?, name).await
            }
            (BootSource::Created, None) | (BootSource::RuntimeDefault, _) => {
                template::default_for(root, runtime).await
            }
            (BootSource::Existing, _) => match template::default_for(root, runtime).await {
                Some(dir) => Some(dir),
                None => template::named(root, runtime).await,
            },
        }
    }

    pub(super) fn runtime_of<'a>(&'a self, workspace: &'a Workspace) -> &'a str {
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
            && template::brings_config(dir).await
        {
            return (None, ConfigFacts::of_folder(dir).await);
        }
        let text = agent_config::render(workspace, self.runtime_of(workspace));
        let facts = ConfigFacts::parse(&text);
        (Some(file(CONFIG_FILE, text.into_bytes(), PUBLIC)), facts)
    }

    /// Revokes older tokens and mints the agent's own, in one transaction. From then
    /// on there is no way back to the agent that ran before.
    async fn mint_credentials(
        &self,
        lease: Lease,
        config: Option<ConfigFile>,
        attempt: &Attempt,
        undo: &mut UndoStack,
    ) -> Result<Vec<ConfigFile>, Step> {
        let services = &self.services;
        let id = lease.id;
        let inbound: Secret = mint()?;
        services.redactor.learn(inbound.expose());
        let place = aad("workspaces", &id.to_string(), "inbound_secret");
        let sealed = services
            .secrets
            .cipher()
            .seal(inbound.expose().as_bytes(), &place)
            .map_err(|error| Error::internal("workspace start failed", error))?;
        let mut tx = services.db.begin().await?;
        if !lease::hold(&mut tx, lease, self.lease_until()).await? {
            return Err(Step::Lost);
        }
        services.auth.revoke_all(&mut tx, id).await?;
        let token = services.auth.issue(&mut tx, id).await?;
        store::set_inbound_secret(&mut tx, id, &sealed).await?;
        lease::forget_fallback(&mut tx, lease).await?;
        // Said first: a commit whose answer is lost may be one.
        attempt.has_credentials();
        tx.commit().await?;
        services.auth.forget(id);
        services.directory.forget(id);
        let taking_back = Arc::clone(services);
        undo.push("mint_credentials", async move {
            taking_back.revoke(lease).await
        });
        let private =
            |name: &str, secret: &Secret| file(name, secret.expose().as_bytes().to_vec(), PRIVATE);
        let mut files = vec![
            private(".auth_token", &token),
            private(".platform_inbound_secret", &inbound),
        ];
        files.extend(config);
        Ok(files)
    }

    pub(in super::super) fn spec(
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
            template_root: template_dir.as_ref().and(config.templates_dir.clone()),
            template_dir,
            files,
            workspace_dir: dir.or_else(|| config.workspace_dir.clone()),
            workspace_access: workspace.access(),
            existing_config: None,
            reset_session: false,
            image_pin: None,
            image: None,
            plugins: Plugins::none(),
            progress: Progress::none(),
        }
    }

    /// The storage of a first boot is ours to take back as well; that of a workspace
    /// that ran before is not.
    fn undo_start(&self, workspace: &Workspace, instance: &Instance, undo: &mut UndoStack) {
        let (id, first) = (workspace.id, workspace.booted_at.is_none());
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
            if !first {
                return Ok(());
            }
            backend
                .remove_storage(id)
                .await
                .map_err(|error| format!("{error:#}"))
        });
    }

    async fn record(&self, lease: Lease, instance: &Instance, plan: BootPlan) -> Result<(), Step> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let plan = plan.of_instance(&instance.instance_id);
        match store::plan::record_boot(&services.db, lease, instance, &plan, now).await {
            Ok(true) => Ok(()),
            Ok(false) => match store::status(&services.db, lease.id).await?.as_deref() {
                // Removed or paused while it started.
                None | Some("removed" | "paused" | "hibernated") => Err(Step::Cancelled),
                Some(_) => Err(Step::Lost),
            },
            Err(error) => Err(Failure::store("record_instance", &error).into()),
        }
    }
}

/// True when there is nothing else to boot from.
fn needs_template(workspace: &Workspace, source: &BootSource) -> bool {
    match source {
        BootSource::Created => workspace.template.is_some(),
        BootSource::Template(_) | BootSource::OrgTemplate(_) | BootSource::RuntimeDefault => true,
        BootSource::Existing => false,
    }
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

/// Required variables without a value.
pub(in super::super) fn missing_env(required: &[String], env: &EnvMap) -> Vec<String> {
    required
        .iter()
        .filter(|name| env.get(name).is_none_or(str::is_empty))
        .cloned()
        .collect()
}

fn check_required(facts: &ConfigFacts, env: &EnvMap) -> Result<(), Failure> {
    let missing = missing_env(&facts.required_env, env);
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
        missing,
        ..Failure::new(&text, "missing_env", text.clone())
    })
}
