//! What the next boot of a workspace would get, explained without any value: who
//! wrote each variable, who won, and what differs from what runs now.
//!
//! The hooks really run, because only then is the answer true. They do what they do
//! at a boot (one that mints a token mints one), but nothing of it is stored. Their
//! deadlines, the panic fence and the time of the request hold; few plans are made
//! at once, and a hook that blocks keeps the place of its plan until it lets go.

mod diff;
mod model;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use molecule_hooks::{EnvMap, RESERVED_ENV_NAMES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

pub(super) use model::BootPlan;
pub(crate) use model::EnvPlan;
use model::{PlanError, PlannedKey, Writer, ignored};

use super::create::failed;
use super::environment::{self, Base};
use super::model::{Status, Workspace};
use super::payload::CreateWorkspace;
use super::provision::{HOOKS_FAILED, NO_BACKEND, missing_env};
use super::view::rfc3339;
use super::{Services, Workspaces, store};
use crate::backend::StartSpec;
use crate::error::{Error, Result};
use crate::secrets::model_secrets;
use crate::secrets::{Bundle, BundleError, Fingerprints};
use crate::store::timestamp;

/// Plans that run hooks at once.
const AT_ONCE: usize = 4;
/// Longest wait for a place among them.
const PATIENCE: Duration = Duration::from_secs(5);
/// Plans that may be asked for in one go, and then each second.
const BURST: f64 = 30.0;
const PER_SECOND: f64 = 1.0;

/// Makes plans, a bounded number of them.
pub(crate) struct EnvPlans {
    fingerprints: Fingerprints,
    slots: Arc<Semaphore>,
    pace: Mutex<Pace>,
    /// Time for one plan; less than the request has, so that a slow hook is named
    /// in the answer instead of costing it.
    budget: Duration,
}

/// A token bucket.
struct Pace {
    left: f64,
    at: Instant,
}

impl EnvPlans {
    /// `request_timeout` is what a request may take in all.
    pub(crate) fn new(fingerprints: Fingerprints, request_timeout: Duration) -> Self {
        Self {
            fingerprints,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            pace: Mutex::new(Pace {
                left: BURST,
                at: Instant::now(),
            }),
            budget: request_timeout * 3 / 4,
        }
    }

    /// Counts a request against the rate.
    fn admit(&self) -> Result<()> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.saturating_duration_since(pace.at).as_secs_f64() * PER_SECOND;
        pace.left = (pace.left + gained).min(BURST);
        pace.at = now;
        if pace.left < 1.0 {
            return Err(Error::rate_limited("too many env plans", 1));
        }
        pace.left -= 1.0;
        Ok(())
    }

    /// A place among the plans that run hooks.
    async fn slot(&self) -> Result<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.slots).acquire_owned();
        let patience = PATIENCE.min(self.budget / 2);
        match tokio::time::timeout(patience, slot).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Error::rate_limited("too many env plans at once", 5)),
        }
    }

    /// Every variable of a boot and every one that was removed on the way, by name.
    fn keys(
        &self,
        workspace: Uuid,
        env: &EnvMap,
        forced: &[(String, Option<String>)],
    ) -> Vec<PlannedKey> {
        let forced_value = |name: &str| forced.iter().find(|(forced, _)| forced == name);
        let names: BTreeSet<&str> = env
            .names()
            .chain(env.removed_names())
            .chain(forced.iter().map(|(name, _)| name.as_str()))
            .collect();
        let describe = |name: &str| {
            let mut writers: Vec<Writer> = env.history(name).iter().map(Writer::of).collect();
            let is_forced = forced_value(name).is_some();
            let value = match forced_value(name) {
                Some((_, value)) => {
                    writers.push(Writer::platform());
                    value.as_deref()
                }
                None => env.get(name),
            };
            PlannedKey {
                key: name.to_owned(),
                present: is_forced || env.contains(name),
                sensitive: !is_forced && env.is_secret(name),
                reserved: RESERVED_ENV_NAMES.contains(&name),
                hash: value.map(|value| self.fingerprints.of(workspace, name, value)),
                expires_at: match is_forced {
                    true => None,
                    false => env.expires_at(name).map(rfc3339),
                },
                won_by: writers.last().cloned().unwrap_or_else(Writer::platform),
                writers,
            }
        };
        names.into_iter().map(describe).collect()
    }
}

impl Services {
    /// What is about to boot, for comparing later plans with it.
    pub(super) fn boot_plan(&self, spec: &StartSpec, env: &EnvMap) -> BootPlan {
        let forced = self.backend.forced_env(spec);
        let plans = &self.env_plans;
        let keys = plans.keys(spec.workspace_id, env, &forced);
        BootPlan::new(plans.fingerprints.key_id(), keys)
    }
}

impl Workspaces {
    /// What the next boot of a workspace would get.
    ///
    /// # Errors
    /// 404 `workspace not found`, also for removed ones; 409 for an external
    /// workspace; 429 for too many plans. A boot that would fail is no error: the
    /// plan says so.
    pub(crate) async fn env_plan(&self, id: Uuid) -> Result<EnvPlan> {
        let services = &self.services;
        let until = Instant::now() + services.env_plans.budget;
        let workspace = self.get(id).await?;
        if workspace.status() == Status::Removed {
            return Err(Error::not_found("workspace not found"));
        }
        if workspace.external {
            return Err(Error::conflict(
                "workspace is external: the platform does not boot its agent",
            ));
        }
        services.env_plans.admit()?;
        let secrets = services.secrets.bundle(id).await;
        let mut plan = self.plan(&workspace, secrets, until).await?;
        if let Some(booted) = store::plan::booted(&services.db, id).await? {
            plan.booted = diff::booted(&plan, booted, workspace.instance_id.as_deref());
        }
        Ok(plan)
    }

    /// What the first boot of a workspace would get that is not created.
    ///
    /// # Errors
    /// All of a create; 400 for an external workspace; 429 for too many plans.
    pub(crate) async fn env_plan_of_payload(&self, payload: CreateWorkspace) -> Result<EnvPlan> {
        let services = &self.services;
        let until = Instant::now() + services.env_plans.budget;
        let mut new = payload.check()?;
        self.apply_template(&mut new).await?;
        if new.external {
            return Err(Error::invalid("invalid workspace payload").with(
                "detail",
                "external: the platform does not boot the agent of an external workspace",
            ));
        }
        services.env_plans.admit()?;
        for (key, value) in &new.secrets {
            services.secrets.teach_passing(key, value);
        }
        let id = Uuid::new_v4();
        // The statements of a create say what a create would say, and its row is
        // what it would be; both are taken back before any hook runs.
        let mut tx = services.db.begin().await.map_err(failed)?;
        self.insert_row(&mut tx, id, &new, Status::Provisioning)
            .await?;
        let workspace = store::plan::find_in(&mut tx, id).await.map_err(failed)?;
        tx.rollback().await.map_err(failed)?;
        let workspace = workspace.ok_or_else(|| Error::not_found("workspace not found"))?;
        let secrets = services.secrets.bundle(id).await.map(|mut bundle| {
            for (key, value) in new.model.as_deref().map(model_secrets).unwrap_or_default() {
                bundle.workspace.insert(key.to_owned(), value);
            }
            bundle.workspace.append(&mut new.secrets);
            bundle
        });
        let mut plan = self.plan(&workspace, secrets, until).await?;
        plan.made_up_id = true;
        Ok(plan)
    }

    /// Goes through the steps of a boot that make its environment. A step that
    /// would fail ends it and is noted in the plan.
    async fn plan(
        &self,
        workspace: &Workspace,
        secrets: Result<Bundle, BundleError>,
        until: Instant,
    ) -> Result<EnvPlan> {
        let services = &self.services;
        let plans = &services.env_plans;
        let mut plan = EnvPlan::new(
            workspace.id,
            plans.fingerprints.key_id(),
            rfc3339(timestamp(&services.clock)),
        );
        let required = match self.provisioner.required_env(workspace).await {
            Ok(required) => required,
            Err(text) => return Ok(plan.failing(PlanError::at("load_template", text))),
        };
        let secrets = match secrets {
            Ok(secrets) => secrets,
            Err(BundleError::Store(error)) => return Err(error.into()),
            Err(error) => {
                let text = error.to_string();
                let cause = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(workspace.id = %workspace.id, cause, "env plan: no secrets");
                return Ok(plan.failing(PlanError::at("load_secrets", text)));
            }
        };
        let awareness_url = services.config.workspaces.awareness_url.as_deref();
        let Base {
            mut env,
            ignored: left_out,
        } = environment::base(workspace, &secrets, awareness_url);
        plan.ignored = left_out.iter().map(ignored).collect();
        let slot = plans.slot().await?;
        let context = workspace.hook_context();
        let ran = services
            .hooks
            .dry_run(&context, &mut env, until, slot)
            .await;
        let spec = (self.provisioner).spec(workspace, &env, None, Vec::new());
        let forced = services.backend.forced_env(&spec);
        plan.keys = plans.keys(workspace.id, &env, &forced);
        if let Err(error) = ran {
            let cause = services.redactor.redact(&error.cause.chain());
            tracing::warn!(
                workspace.id = %workspace.id,
                hook.name = error.hook,
                cause,
                "env plan: a hook failed"
            );
            let failed = PlanError::at("run_hooks", HOOKS_FAILED.to_owned());
            return Ok(plan.failing(failed.of_hook(error.hook)));
        }
        plan.missing = missing_env(&required, &env);
        if services.has_no_backend() {
            let failed = PlanError::at("start_backend", NO_BACKEND.to_owned());
            return Ok(plan.failing(failed));
        }
        Ok(plan)
    }
}
