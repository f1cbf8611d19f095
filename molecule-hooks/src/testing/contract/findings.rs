use std::fmt;

use crate::verdict::{VerdictCheck, VerdictResult};

use super::rules::Rule;

/// A rule that a hook breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Stable name of the rule; [`HookContract`](super::HookContract) says where they are
    /// listed.
    pub id: &'static str,
    /// What was seen, and how to mend it where that is not obvious.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.id, self.message)
    }
}

/// The rules a hook was found to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Name of the hook.
    pub hook: String,
    /// The rules, in the order of their lists. A rule that does not apply, such as those
    /// about tokens for a hook that serves none, is absent.
    pub checked: Vec<&'static str>,
}

/// What was checked so far and what was wrong.
pub(super) struct Findings {
    rules: &'static [&'static [Rule]],
    checked: Vec<&'static str>,
    violations: Vec<Violation>,
}

impl Findings {
    pub(super) fn new(rules: &'static [&'static [Rule]]) -> Self {
        Self {
            rules,
            checked: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Notes the outcome of one check. The first message of a rule is kept:
    /// a broken rule usually breaks in many variants of the same input.
    pub(super) fn note(&mut self, id: &'static str, outcome: Result<(), String>) {
        debug_assert!(
            self.names().any(|name| name == id),
            "{id} is in no list of rules"
        );
        if !self.checked.contains(&id) {
            self.checked.push(id);
        }
        if let Err(message) = outcome
            && !self.violations.iter().any(|known| known.id == id)
        {
            self.violations.push(Violation { id, message });
        }
    }

    /// Notes that `kept` holds, or the message when it does not.
    pub(super) fn require(
        &mut self,
        id: &'static str,
        kept: bool,
        message: impl FnOnce() -> String,
    ) {
        self.note(id, if kept { Ok(()) } else { Err(message()) });
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Every rule with its outcome.
    pub(super) fn checks(&self) -> Vec<VerdictCheck> {
        let result = |name: &str| match self.violations.iter().any(|found| found.id == name) {
            true => VerdictResult::Failed,
            false if self.checked.contains(&name) => VerdictResult::Passed,
            false => VerdictResult::NotChecked,
        };
        let check = |name: &'static str| VerdictCheck {
            name: name.to_owned(),
            result: result(name),
        };
        self.names().map(check).collect()
    }

    pub(super) fn finish(self, hook: String) -> Result<Report, Vec<Violation>> {
        if !self.violations.is_empty() {
            return Err(self.violations);
        }
        let checked = self
            .names()
            .filter(|name| self.checked.contains(name))
            .collect();
        Ok(Report { hook, checked })
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let rules: &'static [&'static [Rule]] = self.rules;
        rules.iter().copied().flatten().map(|rule| rule.name)
    }
}
