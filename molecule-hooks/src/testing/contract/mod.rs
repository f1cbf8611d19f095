mod calls;
mod capture;
mod fence;
mod fields;
mod findings;
mod folder;
mod hostile;
mod io;
mod keys;
mod linked;
mod refusals;
mod rules;
mod secrets;
mod section;
mod setup;
mod source;
mod source_calls;
mod time;
mod tokens;
mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::descriptor::HookDescriptor;
use crate::env_mutator::{EnvMutator, WorkspaceContext};

use fence::Fence;
use findings::Findings;
pub use findings::{Report, Violation};
pub(crate) use keys::decoded_keys;
pub(crate) use linked::Linked;
pub(crate) use refusals::Refusals;
pub use rules::{
    CALL_RULES, COMMON_RULES, KIT_VERSION, Rule, SECTION_RULES, SOURCE_RULES, TOKEN_RULES,
};
use secrets::Secrets;
use setup::{Setup, Subject, setup_methods};
pub use source::{PluginSourceContract, assert_plugin_source_contract};
use time::Time;

/// The rules that a server relies on, checked against one hook: [`SECTION_RULES`],
/// [`CALL_RULES`], [`TOKEN_RULES`] and [`COMMON_RULES`]. Their names are stable.
///
/// Errors, logs and visible variables are searched for secrets planted in secret fields
/// and variables, for the secrets of the section, for what the hook wrote as secret and
/// for its token.
#[derive(Clone)]
pub struct HookContract {
    setup: Setup<dyn EnvMutator>,
    workspace: WorkspaceContext,
    workspace_env: BTreeMap<String, String>,
    workspace_secrets: BTreeMap<String, String>,
    token_lifetime: Option<Duration>,
}

impl HookContract {
    /// The contract of the linked hook of this name: its configuration, its
    /// construction and its calls.
    pub fn new(hook: impl Into<String>) -> Self {
        Self::of(Subject::Linked(hook.into()))
    }

    /// The contract of a hook that was built by hand: its calls only.
    pub fn of_instance(hook: Arc<dyn EnvMutator>) -> Self {
        Self::of(Subject::Instance(hook))
    }

    /// A call may take ten seconds unless set, as on a server.
    fn of(subject: Subject<dyn EnvMutator>) -> Self {
        let workspace = WorkspaceContext {
            runtime: "langgraph".to_owned(),
            ..WorkspaceContext::new("7aa08951-00d4-4c11-9f6e-2f1f8d0c5b1a")
                .with_name("Contract test")
                .with_role("contract-test")
        };
        Self {
            setup: Setup::new(subject, Duration::from_secs(10)),
            workspace,
            workspace_env: BTreeMap::new(),
            workspace_secrets: BTreeMap::new(),
            token_lifetime: None,
        }
    }

    setup_methods!();

    /// The workspace of the ordinary calls.
    pub fn workspace(mut self, workspace: WorkspaceContext) -> Self {
        self.workspace = workspace;
        self
    }

    /// A variable that the workspace has before the hook runs. Name those that
    /// the hook reads: their values are also replaced by hostile ones.
    pub fn workspace_env(mut self, name: &str, value: &str) -> Self {
        self.workspace_env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A secret of the workspace that the hook reads. Its value, and the values
    /// planted in its place, must show up in no error and no log.
    pub fn workspace_secret(mut self, name: &str, value: &str) -> Self {
        self.setup.secrets.push(value.to_owned());
        self.workspace_secrets
            .insert(name.to_owned(), value.to_owned());
        self
    }

    /// How long a token lives by its issuer's word: none may claim more.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = Some(lifetime);
        self
    }

    /// Checks every rule.
    ///
    /// Must run on a tokio runtime with time enabled, whose only other tasks are those of
    /// scripted upstreams. The hook is called well over a hundred times, so give a
    /// [`ScriptedUpstream`](super::ScriptedUpstream) behind it a default reply.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub async fn check(self) -> Result<Report, Vec<Violation>> {
        self.run().await.finish(self.name())
    }

    async fn run(&self) -> Findings {
        let mut findings = Findings::new(rules::HOOK);
        let mut secrets = Secrets::new(&self.setup.secrets);
        let fence = Fence::new(self.setup.deadline).await;
        let time = Time::new(&self.setup.context.clock);
        let (hook, is_ours) = match &self.setup.subject {
            Subject::Linked(name) => {
                let hook = self.build(name, &time, &mut secrets, &mut findings);
                (hook, true)
            }
            Subject::Instance(hook) => (Some(Arc::clone(hook)), false),
        };
        if let Some(hook) = hook {
            let (secrets, findings) = (&mut secrets, &mut findings);
            let env = calls::check(self, &hook, &fence, &time, secrets, findings).await;
            if !fence.is_blocked() {
                let env = env.as_ref();
                tokens::check(self, &hook, env, &fence, &time, secrets, findings).await;
            }
        }
        fence.close(is_ours, &secrets, &mut findings).await;
        findings
    }

    /// Builds the linked hook.
    fn build(
        &self,
        name: &str,
        time: &Time,
        secrets: &mut Secrets,
        findings: &mut Findings,
    ) -> Option<Arc<dyn EnvMutator>> {
        let linked = HookDescriptor::linked();
        let given = section::Given {
            section: &self.setup.section,
            env: &self.setup.env,
            context: &time.context(),
        };
        let (linked, hook) = section::check(linked, name, given, secrets, findings)?;
        findings.require("name-mismatch", hook.name() == linked.name, || {
            format!(
                "registered as {:?}, calls itself {:?}",
                linked.name,
                hook.name()
            )
        });
        Some(hook)
    }

    fn name(&self) -> String {
        self.setup.name(|hook| hook.name())
    }
}

/// Shows the hook's name only: the section may hold secrets.
impl fmt::Debug for HookContract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookContract").field(&self.name()).finish()
    }
}

impl From<&str> for HookContract {
    fn from(hook: &str) -> Self {
        Self::new(hook)
    }
}

impl From<Arc<dyn EnvMutator>> for HookContract {
    fn from(hook: Arc<dyn EnvMutator>) -> Self {
        Self::of_instance(hook)
    }
}

/// Checks that a hook keeps the rules in [`HookContract`]. One call in the tests
/// of every hook crate:
///
/// ```no_run
/// # async fn test() {
/// use molecule_hooks::testing::{HookContract, assert_hook_contract};
/// use serde_json::json;
///
/// assert_hook_contract(
///     HookContract::new("corporate-proxy").section(json!({ "url": "http://proxy:3128" })),
/// )
/// .await;
/// # }
/// ```
///
/// # Panics
/// When a rule is broken; the message lists all of them. When the
/// [verdict file](HookContract::verdict_file) is not current.
pub async fn assert_hook_contract(contract: impl Into<HookContract>) {
    let contract = contract.into();
    let findings = contract.run().await;
    let linked = HookDescriptor::linked();
    verdict::conclude(&linked, &contract.setup, &contract.name(), findings);
}
