//! What the contract kit found about a hook, as its crate embeds it.

use serde::Serialize;
use serde_json::Value;

/// The result of a check that found nothing wrong.
const PASSED: &str = "passed";
/// The result of a check that found something wrong.
const FAILED: &str = "failed";

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
    pub(crate) kit_version: Option<u64>,
    /// Each check and its result.
    pub(crate) checks: Vec<Check>,
}

/// One check of the kit.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Check {
    pub(crate) name: String,
    /// `passed`, `failed`, or another word of the kit.
    pub(crate) result: String,
}

impl Verdict {
    /// Reads what the crate of a hook embeds. A text that is no verdict says nothing
    /// good: it is neither current nor passed.
    pub(super) fn read(text: &str, hook: &str, linked_version: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let crate_version = value["crate_version"].as_str();
        let checks: Vec<Check> = value["checks"].as_array().map_or_else(Vec::new, |list| {
            list.iter().filter_map(Check::read).collect()
        });
        Self {
            current: value["hook"] == hook && crate_version == Some(linked_version),
            passed: checks.iter().any(|check| check.result == PASSED)
                && checks.iter().all(|check| check.result != FAILED),
            crate_version: crate_version.map(str::to_owned),
            kit_version: value["kit_version"].as_u64(),
            checks,
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

impl Check {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            result: value["result"].as_str()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(checks: Value) -> String {
        json!({ "kit_version": 1, "hook": "vault", "crate_version": "1.2.0", "checks": checks })
            .to_string()
    }

    #[test]
    fn a_verdict_counts_for_the_version_it_was_written_about() {
        let text = verdict(json!([
            { "name": "call-failed", "result": "passed" },
            { "name": "token-expired", "result": "not-checked" },
        ]));
        let found = Verdict::read(&text, "vault", "1.2.0");
        assert!(found.current && found.passed);
        assert_eq!((found.kit_version, found.checks.len()), (Some(1), 2));
        assert_eq!(found.in_short(), "contract kept");
        for (hook, version) in [("vault", "1.3.0"), ("other", "1.2.0")] {
            let found = Verdict::read(&text, hook, version);
            assert!(!found.current && found.passed);
            assert_eq!(found.in_short(), "contract of another version");
        }
    }

    #[test]
    fn a_verdict_passes_when_something_was_checked_and_nothing_failed() {
        for (checks, passed) in [
            (
                json!([{ "name": "a", "result": "passed" }, { "name": "b", "result": "failed" }]),
                false,
            ),
            (json!([{ "name": "a", "result": "not-checked" }]), false),
            (json!([]), false),
            (json!("passed"), false),
            (json!([{ "name": "a", "result": "passed" }, 7]), true),
        ] {
            let text = verdict(checks.clone());
            assert_eq!(
                Verdict::read(&text, "vault", "1.2.0").passed,
                passed,
                "{checks}"
            );
        }
    }

    #[test]
    fn a_text_that_is_no_verdict_is_neither_current_nor_passed() {
        for text in ["", "null", "[]", "{", r#"{"crate_version":1,"hook":[]}"#] {
            let found = Verdict::read(text, "vault", "1.2.0");
            assert!(
                !found.current && !found.passed && found.checks.is_empty(),
                "{text}"
            );
        }
    }
}
