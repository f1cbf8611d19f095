//! What the contract kit found about a hook, as its crate embeds it.

use molecule_hooks::VerdictResult;
use serde::Serialize;

/// The verdict file of a hook crate, read.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Verdict {
    /// Whether it was written about the version of the crate that is linked.
    pub(crate) current: bool,
    /// Whether something was checked and nothing failed.
    pub(crate) passed: bool,
    /// The version of the crate it was written about.
    pub(crate) crate_version: Option<String>,
    /// The version of the contract kit.
    pub(crate) kit_version: Option<u32>,
    /// Each check and its result.
    pub(crate) checks: Vec<Check>,
}

/// One check of the kit.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Check {
    pub(crate) name: String,
    /// `passed`, `failed` or `not-checked`.
    pub(crate) result: &'static str,
}

impl Verdict {
    /// Reads what the crate of a hook embeds. A text that is no verdict says nothing
    /// good: it is neither current nor passed.
    pub(super) fn read(text: &str, hook: &str, linked_version: &str) -> Self {
        let Some(verdict) = molecule_hooks::Verdict::parse(text) else {
            return Self {
                current: false,
                passed: false,
                crate_version: None,
                kit_version: None,
                checks: Vec::new(),
            };
        };
        let checks = verdict.checks.iter().map(|check| Check {
            name: check.name.clone(),
            result: word(check.result),
        });
        Self {
            current: verdict.is_about(hook, linked_version),
            passed: verdict.is_passed(),
            crate_version: Some(verdict.crate_version.clone()),
            kit_version: Some(verdict.kit_version),
            checks: checks.collect(),
        }
    }

    /// In a word or three.
    pub(crate) fn in_short(&self) -> &'static str {
        match (self.current, self.passed) {
            (true, true) => "contract kept",
            (true, false) => "contract broken",
            (false, _) => "contract of another version",
        }
    }
}

/// As the file of the verdict has it.
fn word(result: VerdictResult) -> &'static str {
    match result {
        VerdictResult::Passed => "passed",
        VerdictResult::Failed => "failed",
        _ => "not-checked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(checks: Value) -> String {
        json!({ "kit_version": 1, "hook": "store", "crate_version": "1.2.0", "checks": checks })
            .to_string()
    }

    #[test]
    fn a_verdict_counts_for_the_version_it_was_written_about() {
        let text = verdict(json!([
            { "name": "call-failed", "result": "passed" },
            { "name": "token-expired", "result": "not-checked" },
        ]));
        let found = Verdict::read(&text, "store", "1.2.0");
        assert!(found.current && found.passed);
        assert_eq!((found.kit_version, found.checks.len()), (Some(1), 2));
        assert_eq!(found.in_short(), "contract kept");
        for (hook, version) in [("store", "1.3.0"), ("other", "1.2.0")] {
            let found = Verdict::read(&text, hook, version);
            assert!(!found.current && found.passed);
            assert_eq!(found.in_short(), "contract of another version");
        }
    }

    #[test]
    fn one_failed_check_is_a_broken_contract() {
        let text = verdict(json!([
            { "name": "a", "result": "passed" },
            { "name": "b", "result": "failed" },
        ]));
        let found = Verdict::read(&text, "store", "1.2.0");
        assert!(found.current && !found.passed);
        assert_eq!(found.in_short(), "contract broken");
        assert_eq!(found.checks[1].result, "failed");
    }

    #[test]
    fn a_text_that_is_no_verdict_is_neither_current_nor_passed() {
        for text in ["", "null", "[]", "{", r#"{"crate_version":1,"hook":[]}"#] {
            let found = Verdict::read(text, "store", "1.2.0");
            assert!(
                !found.current && !found.passed && found.checks.is_empty(),
                "{text}"
            );
        }
    }
}
