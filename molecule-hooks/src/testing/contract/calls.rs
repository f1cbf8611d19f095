use std::future::Future;
use std::sync::Arc;

use crate::descriptor::is_valid_hook_name;
use crate::env_map::EnvMap;
use crate::env_mutator::{EnvMutator, WorkspaceContext};
use crate::error::HookError;
use crate::registry::{RegisteredHook, Registry};

use super::HookContract;
use super::fence::{Ended, Fence};
use super::findings::Findings;
use super::hostile::{odd_texts, odd_workspaces};
use super::refusals::Refusals;
use super::secrets::{PLANTED, Secrets};
use super::time::Time;

const AT_ONCE: usize = 32;

type Called = Ended<Result<EnvMap, HookError>>;

/// Checks the calls of a built hook. Returns what an ordinary one left.
pub(super) async fn check(
    contract: &HookContract,
    hook: &Arc<dyn EnvMutator>,
    fence: &Fence,
    time: &Time,
    secrets: &mut Secrets,
    findings: &mut Findings,
) -> Option<EnvMap> {
    findings.require("invalid-name", is_valid_hook_name(hook.name()), || {
        format!("{:?} is not lower-kebab", hook.name())
    });
    let registry = Registry::new();
    registry.register(Arc::clone(hook));
    let mut calls = Calls {
        contract,
        hook: registry.snapshot().pop()?,
        fence,
        secrets,
        findings,
    };
    // The rest compares with an ordinary call, so it needs one.
    let first = calls.check_ordinary(time).await?;
    calls.check_idempotent(&first).await;
    calls.check_concurrent(&first).await;
    calls.check_cancelled().await;
    calls.check_hostile_env(&first).await;
    calls.check_hostile_workspace().await;
    Some(first)
}

struct Calls<'a> {
    contract: &'a HookContract,
    hook: RegisteredHook,
    fence: &'a Fence,
    secrets: &'a mut Secrets,
    findings: &'a mut Findings,
}

impl Calls<'_> {
    async fn check_ordinary(&mut self, time: &Time) -> Option<EnvMap> {
        let workspace = &self.contract.workspace;
        let refused = Refusals::default();
        let mut env = self.base();
        env.note_refusals(refused.clone());
        let called = self.fence.run(self.call(workspace, env)).await;
        self.judge("call-panics", "an ordinary call", &called);
        refused.check(self.findings);
        if let Ended::Returned(Err(error)) = &called {
            let shown = self.secrets.show(error);
            self.findings.note("call-failed", Err(shown));
        }
        let Ended::Returned(Ok(env)) = called else {
            return None;
        };
        self.findings.note("call-failed", Ok(()));
        let base = self.base();
        // Before what it wrote as secret is added: that may be a word like any other.
        self.secrets.check_visible(&base, &env, self.findings);
        self.secrets.add_written(&env);
        let changed = base.changed_names(&env);
        let expired = |name: &&str| env.expires_at(name).is_some_and(|end| end <= time.now());
        let expired: Vec<&str> = changed.into_iter().filter(expired).collect();
        self.findings
            .require("env-expired", expired.is_empty(), || {
                format!("{expired:?} have expired already; is the time that of the context?")
            });
        (!self.fence.is_blocked()).then_some(env)
    }

    async fn check_idempotent(&mut self, first: &EnvMap) {
        let workspace = &self.contract.workspace;
        for (what, env) in [
            ("a second call", self.base()),
            ("a call on its own result", first.clone()),
        ] {
            let called = self.fence.run(self.call(workspace, env)).await;
            self.judge("call-panics", what, &called);
            self.findings.note(
                "not-idempotent",
                same_names(&called, first).map_err(|difference| format!("{what} {difference}")),
            );
        }
    }

    async fn check_concurrent(&mut self, first: &EnvMap) {
        let workspace = &self.contract.workspace;
        let calls = (0..AT_ONCE).map(|_| self.call(workspace, self.base()));
        let called = self.fence.run_all(calls).await;
        for called in &called {
            self.findings.note(
                "not-concurrent",
                same_names(called, first)
                    .map_err(|difference| format!("one of {AT_ONCE} calls at once {difference}")),
            );
        }
    }

    /// Drops calls at several points, then expects an ordinary one to work.
    async fn check_cancelled(&mut self) {
        let workspace = &self.contract.workspace;
        for polls in [1, 2, 5, 20] {
            let call = self.call(workspace, self.base());
            let dropped = self.fence.run_and_drop(call, polls).await;
            let after = self.fence.run(self.call(workspace, self.base())).await;
            let outcome = match (&dropped, &after) {
                (Ended::Panicked, _) => Err("it panics when it is dropped"),
                (_, Ended::Returned(Ok(_))) => Ok(()),
                (_, Ended::Returned(Err(_))) => Err("the next call fails"),
                (_, Ended::Panicked) => Err("the next call panics"),
                (_, Ended::Late) => Err("the next call does not return in time"),
            };
            self.findings.note(
                "not-cancel-safe",
                outcome.map_err(|what| format!("after a call was dropped half-way, {what}")),
            );
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn check_hostile_env(&mut self, first: &EnvMap) {
        let mut known = self.base();
        for (name, value) in first.iter() {
            write(&mut known, name, value, first.is_secret(name));
        }
        let mut many = EnvMap::new();
        for n in 0..1000 {
            write(&mut many, &format!("VARIABLE_{n}"), PLANTED, true);
        }
        let mut maps = vec![EnvMap::new(), many];
        for text in odd_texts() {
            let mut env = EnvMap::new();
            for name in known.names() {
                write(&mut env, name, &text, known.is_secret(name));
            }
            maps.push(env);
        }
        let mut planted = known.clone();
        for name in known.names().filter(|name| known.is_secret(name)) {
            write(&mut planted, name, PLANTED, true);
        }
        maps.push(planted);
        for env in maps {
            let workspace = &self.contract.workspace;
            let called = self.fence.run(self.call(workspace, env)).await;
            if !self.judge("hostile-env-panics", "an odd environment", &called) {
                return;
            }
        }
    }

    async fn check_hostile_workspace(&mut self) {
        for workspace in odd_workspaces() {
            let called = self.fence.run(self.call(&workspace, self.base())).await;
            if !self.judge("hostile-workspace-panics", "an odd workspace", &called) {
                return;
            }
        }
    }

    /// Notes panics, deadlines and leaks; false when it makes no sense to go on.
    fn judge(&mut self, panics: &'static str, what: &str, called: &Called) -> bool {
        self.findings
            .require(panics, !matches!(called, Ended::Panicked), || {
                format!("{what} makes it panic")
            });
        self.findings
            .require("call-timeout", !matches!(called, Ended::Late), || {
                format!("{what} does not return within {:?}", self.fence.deadline())
            });
        match called {
            Ended::Returned(Ok(_)) => {}
            Ended::Returned(Err(error)) => self.secrets.check_error(error, self.findings),
            Ended::Panicked | Ended::Late => return false,
        }
        true
    }

    fn call(
        &self,
        workspace: &WorkspaceContext,
        mut env: EnvMap,
    ) -> impl Future<Output = Result<EnvMap, HookError>> + Send + 'static {
        let (hook, workspace) = (self.hook.clone(), workspace.clone());
        async move { hook.apply(&workspace, &mut env).await.map(|()| env) }
    }

    fn base(&self) -> EnvMap {
        let mut env = EnvMap::new();
        for (name, value) in &self.contract.workspace_env {
            write(&mut env, name, value, false);
        }
        for (name, value) in &self.contract.workspace_secrets {
            write(&mut env, name, value, true);
        }
        env
    }
}

/// Leaves out what the platform would refuse, as the platform would.
fn write(env: &mut EnvMap, name: &str, value: &str, secret: bool) {
    let _ = match secret {
        true => env.set_secret(name, value),
        false => env.set(name, value),
    };
}

fn same_names(called: &Called, expected: &EnvMap) -> Result<(), String> {
    match called {
        Ended::Returned(Ok(env)) if env.names().eq(expected.names()) => Ok(()),
        Ended::Returned(Ok(env)) => {
            let sets: Vec<&str> = env.names().collect();
            let first: Vec<&str> = expected.names().collect();
            Err(format!(
                "leaves the variables {sets:?}, the first one left {first:?}"
            ))
        }
        Ended::Returned(Err(error)) => Err(format!("fails with a {:?} error", error.kind())),
        Ended::Panicked => Err("panics".to_owned()),
        Ended::Late => Err("does not return in time".to_owned()),
    }
}
