use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::plugin_source::PluginSource;
use crate::source_descriptor::{PluginSourceDescriptor, is_valid_scheme};

use super::fence::Fence;
use super::findings::{Findings, Report, Violation};
use super::secrets::Secrets;
use super::setup::{Setup, Subject, setup_methods};
use super::time::Time;
use super::{rules, section, source_calls, verdict};

/// The rules that a server relies on, checked against one source of plugins:
/// [`SECTION_RULES`](super::SECTION_RULES), [`SOURCE_RULES`](super::SOURCE_RULES) and
/// [`COMMON_RULES`](super::COMMON_RULES). Their names are stable.
#[derive(Clone)]
pub struct PluginSourceContract {
    pub(super) setup: Setup<dyn PluginSource>,
    pub(super) spec: Option<(String, String)>,
    pub(super) missing: Vec<String>,
    pub(super) invalid: Vec<String>,
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

    /// A call may take thirty seconds unless set.
    fn of(subject: Subject<dyn PluginSource>) -> Self {
        Self {
            setup: Setup::new(subject, Duration::from_secs(30)),
            spec: None,
            missing: Vec::new(),
            invalid: Vec::new(),
        }
    }

    setup_methods!();

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

    /// Checks every rule. Must run on a tokio runtime with time enabled, whose only other
    /// tasks are those of scripted upstreams.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub async fn check(self) -> Result<Report, Vec<Violation>> {
        self.run().await.finish(self.name())
    }

    async fn run(&self) -> Findings {
        let mut findings = Findings::new(rules::SOURCE);
        let mut secrets = Secrets::new(&self.setup.secrets);
        let fence = Fence::new(self.setup.deadline).await;
        let (source, is_ours) = match &self.setup.subject {
            Subject::Linked(name) => (self.build(name, &mut secrets, &mut findings), true),
            Subject::Instance(source) => (Some(Arc::clone(source)), false),
        };
        if let Some(source) = source {
            let valid = is_valid_scheme(source.scheme());
            findings.require("invalid-scheme", valid, || {
                format!("{:?} is no scheme", source.scheme())
            });
            source_calls::check(self, &source, &fence, &secrets, &mut findings).await;
        }
        fence.close(is_ours, &secrets, &mut findings).await;
        findings
    }

    fn build(
        &self,
        name: &str,
        secrets: &mut Secrets,
        findings: &mut Findings,
    ) -> Option<Arc<dyn PluginSource>> {
        let linked = PluginSourceDescriptor::linked();
        let given = section::Given {
            section: &self.setup.section,
            env: &self.setup.env,
            context: &Time::new(&self.setup.context.clock).context(),
        };
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
        self.setup.name(|source| source.scheme())
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
/// When a rule is broken; the message lists all of them. When the
/// [verdict file](PluginSourceContract::verdict_file) is not current.
pub async fn assert_plugin_source_contract(contract: PluginSourceContract) {
    let findings = contract.run().await;
    let linked = PluginSourceDescriptor::linked();
    verdict::conclude(&linked, &contract.setup, &contract.name(), findings);
}
