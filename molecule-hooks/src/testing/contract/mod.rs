mod calls;
mod capture;
mod fence;
mod findings;
mod keys;
mod secrets;
mod section;
mod source;
mod source_calls;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Clock;
use crate::config::BuildContext;
use crate::descriptor::HookDescriptor;
use crate::env_mutator::{EnvMutator, WorkspaceContext};

use fence::Fence;
use findings::Findings;
pub use findings::{Report, Violation};
pub(crate) use keys::decoded_keys;
use secrets::Secrets;
pub use source::{PluginSourceContract, assert_plugin_source_contract};

/// The rules that a server relies on, checked against one hook.
///
/// | rule | a hook breaks it when |
/// |---|---|
/// | `not-linked` | no hook of this name is linked into the test |
/// | `linked-twice` | two are |
/// | `bad-description` | its description is empty or has several lines |
/// | `field-listed-twice` | `FIELDS` has a key twice |
/// | `field-not-decoded` | `FIELDS` has a key its config type does not read |
/// | `key-not-in-fields` | its config type reads a key that `FIELDS` does not have |
/// | `unknown-key-accepted` | it builds from a section with an unknown key |
/// | `example-refused` | an example in `FIELDS` does not decode |
/// | `required-not-required` | it builds without a field marked as required |
/// | `config-panics` | some section makes it panic |
/// | `empty-section` | the empty section fails with something else than a config error |
/// | `valid-section-refused` | the section given to the contract does not build |
/// | `valid-section-skipped` | the section given to the contract builds nothing |
/// | `invalid-name` | its name is not lower-kebab |
/// | `name-mismatch` | it calls itself something else than its registered name |
/// | `call-failed`, `call-panics`, `call-timeout` | a call in ordinary conditions does so |
/// | `not-idempotent` | a second call fails or sets other variables |
/// | `not-concurrent` | one of 32 calls at once fails or sets other variables |
/// | `not-cancel-safe` | a call fails after another one was dropped half-way |
/// | `hostile-env-panics` | an empty, huge or odd environment makes it panic |
/// | `hostile-workspace-panics` | odd ids, names or roles make it panic |
/// | `token-provider-undeclared` | it serves tokens without `token_provider: true` |
/// | `token-failed`, `token-panics`, `token-timeout` | asking for a token does so |
/// | `token-empty`, `token-expired` | the token is |
/// | `token-not-concurrent` | one of 20 requests at once fails |
/// | `secret-in-error` | a secret can be read in one of its errors |
/// | `secret-in-log` | a secret can be read in its log |
///
/// The ids are stable. Errors and logs are searched for secrets planted in secret
/// fields and variables, for the secrets of the section, for what the hook wrote
/// as secret and for its token.
#[derive(Clone)]
pub struct HookContract {
    subject: Subject,
    section: Value,
    env: BTreeMap<String, String>,
    context: BuildContext,
    workspace: WorkspaceContext,
    workspace_env: BTreeMap<String, String>,
    workspace_secrets: BTreeMap<String, String>,
    secrets: Vec<String>,
    deadline: Duration,
}

#[derive(Clone)]
enum Subject {
    Linked(String),
    Instance(Arc<dyn EnvMutator>),
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

    fn of(subject: Subject) -> Self {
        let workspace = WorkspaceContext {
            runtime: "langgraph".to_owned(),
            ..WorkspaceContext::new("7aa08951-00d4-4c11-9f6e-2f1f8d0c5b1a")
                .with_name("Contract test")
                .with_role("contract-test")
        };
        Self {
            subject,
            section: Value::Null,
            env: BTreeMap::new(),
            context: BuildContext::default(),
            workspace,
            workspace_env: BTreeMap::new(),
            workspace_secrets: BTreeMap::new(),
            secrets: Vec::new(),
            deadline: Duration::from_secs(10),
        }
    }

    /// A section that builds the hook.
    pub fn section(mut self, section: Value) -> Self {
        self.section = section;
        self
    }

    /// A variable of the server's own environment, for fields that name one.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The clock handed to the hook; also decides whether a token has expired.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.context.clock = clock;
        self
    }

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
        self.secrets.push(value.to_owned());
        self.workspace_secrets
            .insert(name.to_owned(), value.to_owned());
        self
    }

    /// A text that must show up in no error and no log, for example a token that
    /// a scripted upstream hands out.
    pub fn secret(mut self, text: impl Into<String>) -> Self {
        self.secrets.push(text.into());
        self
    }

    /// How long one call may take; ten seconds unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Checks every rule.
    ///
    /// Must run on a tokio runtime with time enabled. The hook is called well
    /// over a hundred times, so give a [`ScriptedUpstream`](super::ScriptedUpstream)
    /// behind it a default reply.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub async fn check(self) -> Result<Report, Vec<Violation>> {
        let mut findings = Findings::default();
        let mut secrets = Secrets::new(&self.secrets);
        let fence = Fence::new(self.deadline);
        let hook = match &self.subject {
            Subject::Linked(name) => self.build(name, &mut secrets, &mut findings),
            Subject::Instance(hook) => Some(Arc::clone(hook)),
        };
        if let Some(hook) = &hook {
            calls::check(&self, hook, &fence, &mut secrets, &mut findings).await;
            tokens::check(&self, hook, &fence, &mut secrets, &mut findings).await;
        }
        secrets.check_log(&fence.log(), &mut findings);
        findings.finish(self.name())
    }

    /// Builds the linked hook.
    fn build(
        &self,
        name: &str,
        secrets: &mut Secrets,
        findings: &mut Findings,
    ) -> Option<Arc<dyn EnvMutator>> {
        let given = section::Given {
            section: &self.section,
            env: &self.env,
            context: &self.context,
        };
        let linked = HookDescriptor::linked();
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
        match &self.subject {
            Subject::Linked(name) => name.clone(),
            Subject::Instance(hook) => hook.name().to_owned(),
        }
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
/// When a rule is broken; the message lists all of them.
pub async fn assert_hook_contract(contract: impl Into<HookContract>) {
    let contract = contract.into();
    let name = contract.name();
    if let Err(violations) = contract.check().await {
        let list: String = violations.iter().map(|v| format!("\n  - {v}")).collect();
        panic!(
            "hook {name:?} breaks {} rule(s) of its contract:{list}",
            violations.len()
        );
    }
}
