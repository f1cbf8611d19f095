use std::fmt;

/// A rule that a hook breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Stable name of the rule; [`HookContract`](super::HookContract) lists them.
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
    /// The rules, in the order they were checked. A rule that does not apply,
    /// such as those about tokens for a hook that serves none, is absent.
    pub checked: Vec<&'static str>,
}

/// What was checked so far and what was wrong.
#[derive(Default)]
pub(super) struct Findings {
    checked: Vec<&'static str>,
    violations: Vec<Violation>,
}

impl Findings {
    /// Notes the outcome of one check. The first message of a rule is kept:
    /// a broken rule usually breaks in many variants of the same input.
    pub(super) fn note(&mut self, id: &'static str, outcome: Result<(), String>) {
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

    pub(super) fn finish(self, hook: String) -> Result<Report, Vec<Violation>> {
        match self.violations.is_empty() {
            true => Ok(Report {
                hook,
                checked: self.checked,
            }),
            false => Err(self.violations),
        }
    }
}
