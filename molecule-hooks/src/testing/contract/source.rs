use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Clock;
use crate::config::BuildContext;
use crate::plugin_source::PluginSource;
use crate::source_descriptor::{PluginSourceDescriptor, is_valid_scheme};

use super::fence::Fence;
use super::findings::{Findings, Report, Violation};
use super::secrets::Secrets;
use super::{section, source_calls};

/// The rules that a server relies on, checked against one source of plugins.
///
/// The rules about linking and configuration are those of
/// [`HookContract`](super::HookContract), with the same ids. The others:
///
/// | rule | a source breaks it when |
/// |---|---|
/// | `invalid-scheme` | no text can name its scheme |
/// | `scheme-mismatch` | it answers to another scheme than it was registered with |
/// | `check-panics` | some text makes [`check`](PluginSource::check) or another look at it panic |
/// | `spec-refused` | it refuses the spec given to the contract |
/// | `spec-accepted` | it accepts a spec that the contract was told is none |
/// | `refused-otherwise` | it refuses a spec with something else than `InvalidSpec` |
/// | `fetch-failed`, `fetch-panics`, `fetch-timeout` | fetching the spec does so |
/// | `bad-name` | what it fetched has a name no plugin can have, or another one than was expected |
/// | `unsafe-tree` | it left a link or something that is no file in the folder |
/// | `not-repeatable` | fetching again fails or brings something else |
/// | `not-concurrent` | one of eight fetches at once fails or brings something else |
/// | `not-cancel-safe` | a fetch fails after another one was dropped half-way |
/// | `missing-not-told` | what is not there is not `NotFound` |
/// | `limits-misnamed` | a tree over the limits is refused with something else than `TooLarge` |
/// | `resolve-failed`, `resolve-panics`, `resolve-timeout` | asking its upstream does so |
/// | `resolve-miscounts` | it answers more or fewer revisions than it was asked for |
/// | `pinned-refused` | it does not accept the spec that means exactly what it fetched |
/// | `secret-in-error`, `secret-in-log` | a secret can be read there |
///
/// The ids are stable.
#[derive(Clone)]
pub struct PluginSourceContract {
    subject: Subject,
    section: Value,
    env: BTreeMap<String, String>,
    context: BuildContext,
    secrets: Vec<String>,
    deadline: Duration,
    pub(super) spec: Option<(String, String)>,
    pub(super) missing: Vec<String>,
    pub(super) invalid: Vec<String>,
}

#[derive(Clone)]
enum Subject {
    Linked(String),
    Instance(Arc<dyn PluginSource>),
}

impl PluginSourceContract {
    /// The contract of the linked source of this name: its configuration, its
    /// construction and its calls.
    pub fn new(source: impl Into<String>) -> Self {
        Self::of(Subject::Linked(source.into()))
    }

    /// The contract of a source that was built by hand: its calls only.
    pub fn of_instance(source: Arc<dyn PluginSource>) -> Self {
        Self::of(Subject::Instance(source))
    }

    fn of(subject: Subject) -> Self {
        Self {
            subject,
            section: Value::Null,
            env: BTreeMap::new(),
            context: BuildContext::default(),
            secrets: Vec::new(),
            deadline: Duration::from_secs(30),
            spec: None,
            missing: Vec::new(),
            invalid: Vec::new(),
        }
    }

    /// A section that builds the source.
    pub fn section(mut self, section: Value) -> Self {
        self.section = section;
        self
    }

    /// A variable of the server's own environment, for fields that name one.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The clock handed to the source.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.context.clock = clock;
        self
    }

    /// A spec that can be fetched, and the name of the plugin it means. Fetched about
    /// twenty times; without one nothing is.
    pub fn spec(mut self, spec: &str, name: &str) -> Self {
        self.spec = Some((spec.to_owned(), name.to_owned()));
        self
    }

    /// A spec that makes sense but means nothing that is there.
    pub fn missing(mut self, spec: &str) -> Self {
        self.missing.push(spec.to_owned());
        self
    }

    /// A spec that makes no sense.
    pub fn invalid(mut self, spec: &str) -> Self {
        self.invalid.push(spec.to_owned());
        self
    }

    /// A text that must show up in no error and no log.
    pub fn secret(mut self, text: impl Into<String>) -> Self {
        self.secrets.push(text.into());
        self
    }

    /// How long one call may take; thirty seconds unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Checks every rule. Must run on a tokio runtime with time enabled.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub async fn check(self) -> Result<Report, Vec<Violation>> {
        let mut findings = Findings::default();
        let mut secrets = Secrets::new(&self.secrets);
        let fence = Fence::new(self.deadline);
        let source = match &self.subject {
            Subject::Linked(name) => self.build(name, &mut secrets, &mut findings),
            Subject::Instance(source) => Some(Arc::clone(source)),
        };
        if let Some(source) = &source {
            let valid = is_valid_scheme(source.scheme());
            findings.require("invalid-scheme", valid, || {
                format!("{:?} is no scheme", source.scheme())
            });
            source_calls::check(&self, source, &fence, &secrets, &mut findings).await;
        }
        secrets.check_log(&fence.log(), &mut findings);
        findings.finish(self.name())
    }

    fn build(
        &self,
        name: &str,
        secrets: &mut Secrets,
        findings: &mut Findings,
    ) -> Option<Arc<dyn PluginSource>> {
        let given = section::Given {
            section: &self.section,
            env: &self.env,
            context: &self.context,
        };
        let linked = PluginSourceDescriptor::linked();
        let (linked, source) = section::check(linked, name, given, secrets, findings)?;
        let agrees = source.scheme() == linked.scheme;
        findings.require("scheme-mismatch", agrees, || {
            format!(
                "registered with {:?}, answers to {:?}",
                linked.scheme,
                source.scheme()
            )
        });
        Some(source)
    }

    fn name(&self) -> String {
        match &self.subject {
            Subject::Linked(name) => name.clone(),
            Subject::Instance(source) => source.scheme().to_owned(),
        }
    }
}

/// Shows the source's name only: the section may hold secrets.
impl fmt::Debug for PluginSourceContract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PluginSourceContract")
            .field(&self.name())
            .finish()
    }
}

/// Checks that a source keeps the rules in [`PluginSourceContract`]. One call in the
/// tests of every hook crate that brings one:
///
/// ```no_run
/// # async fn test() {
/// use molecule_hooks::testing::{PluginSourceContract, assert_plugin_source_contract};
/// use serde_json::json;
///
/// assert_plugin_source_contract(
///     PluginSourceContract::new("company-store")
///         .section(json!({ "url": "http://127.0.0.1:8080" }))
///         .spec("careful-bash@1.0.0", "careful-bash")
///         .missing("no-such-plugin@1.0.0")
///         .invalid("../careful-bash"),
/// )
/// .await;
/// # }
/// ```
///
/// # Panics
/// When a rule is broken; the message lists all of them.
pub async fn assert_plugin_source_contract(contract: PluginSourceContract) {
    let name = contract.name();
    if let Err(violations) = contract.check().await {
        let list: String = violations.iter().map(|v| format!("\n  - {v}")).collect();
        panic!(
            "plugin source {name:?} breaks {} rule(s) of its contract:{list}",
            violations.len()
        );
    }
}
