use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::config::BuildContext;

/// What is checked: something linked, or something that a test built itself.
pub(super) enum Subject<T: ?Sized> {
    Linked(String),
    Instance(Arc<T>),
}

/// What every contract is told by the author of a hook crate.
pub(super) struct Setup<T: ?Sized> {
    pub(super) subject: Subject<T>,
    pub(super) section: Value,
    pub(super) env: BTreeMap<String, String>,
    pub(super) context: BuildContext,
    pub(super) secrets: Vec<String>,
    pub(super) deadline: Duration,
    pub(super) verdict: Option<PathBuf>,
}

impl<T: ?Sized> Setup<T> {
    pub(super) fn new(subject: Subject<T>, deadline: Duration) -> Self {
        Self {
            subject,
            section: Value::Null,
            env: BTreeMap::new(),
            context: BuildContext::default(),
            secrets: Vec::new(),
            deadline,
            verdict: None,
        }
    }

    pub(super) fn name(&self, of_instance: impl FnOnce(&T) -> &str) -> String {
        match &self.subject {
            Subject::Linked(name) => name.clone(),
            Subject::Instance(instance) => of_instance(instance).to_owned(),
        }
    }
}

// Derived ones would ask for `T: Clone`.
impl<T: ?Sized> Clone for Setup<T> {
    fn clone(&self) -> Self {
        Self {
            subject: self.subject.clone(),
            section: self.section.clone(),
            env: self.env.clone(),
            context: self.context.clone(),
            secrets: self.secrets.clone(),
            deadline: self.deadline,
            verdict: self.verdict.clone(),
        }
    }
}

impl<T: ?Sized> Clone for Subject<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Linked(name) => Self::Linked(name.clone()),
            Self::Instance(instance) => Self::Instance(Arc::clone(instance)),
        }
    }
}

/// The part of a contract's builder that fills its [`Setup`].
macro_rules! setup_methods {
    () => {
        /// A section that builds it.
        pub fn section(mut self, section: serde_json::Value) -> Self {
            self.setup.section = section;
            self
        }

        /// A variable of the server's own environment, for fields that name one.
        pub fn env(mut self, name: &str, value: &str) -> Self {
            self.setup.env.insert(name.to_owned(), value.to_owned());
            self
        }

        /// The clock it is built with. The kit hands it over in a wrapper, so that it can
        /// let time pass.
        pub fn clock(mut self, clock: $crate::clock::Clock) -> Self {
            self.setup.context.clock = clock;
            self
        }

        /// A text that must show up in no error, no log and no visible variable, for
        /// example a token that a scripted upstream hands out.
        pub fn secret(mut self, text: impl Into<String>) -> Self {
            self.setup.secrets.push(text.into());
            self
        }

        /// How long one call may take.
        pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
            self.setup.deadline = deadline;
            self
        }

        /// Keeps the [verdict](crate::Verdict) in this file, by custom `contract.json` next
        /// to `Cargo.toml`:
        /// `.verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"))`.
        ///
        /// The assertion writes the file when the environment variable
        /// `MOLECULE_WRITE_VERDICT` is `1`. Otherwise it fails when the file says anything
        /// else than what was found, or speaks of another version of the crate.
        pub fn verdict_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
            self.setup.verdict = Some(path.into());
            self
        }
    };
}

pub(super) use setup_methods;
