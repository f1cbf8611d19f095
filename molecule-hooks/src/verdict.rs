use serde::{Deserialize, Serialize};

/// What the contract kit found out about one hook crate: the file `contract.json` of the
/// crate, which the last line of [`register_hook!`](crate::register_hook) embeds.
///
/// The kit writes it (`MOLECULE_WRITE_VERDICT=1 cargo test`); a server shows it in
/// `hooks --json`. It is a statement of the crate's author, like a badge: whoever must
/// know runs the tests of the crate.
///
/// ```
/// use molecule_hooks::Verdict;
/// let text = r#"{
///   "kit_version": 1,
///   "hook": "corporate-proxy",
///   "crate_version": "1.2.0",
///   "checks": [{ "name": "call-failed", "result": "passed" }]
/// }"#;
/// let verdict = Verdict::parse(text).expect("it is one");
/// assert!(verdict.is_passed());
/// assert!(verdict.is_about("corporate-proxy", "1.2.0"));
/// assert!(!verdict.is_about("corporate-proxy", "1.3.0"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Which set of rules was checked; a new or sharper rule makes a new number.
    pub kit_version: u32,
    /// Name of the hook or source.
    pub hook: String,
    /// Version of the crate that was checked.
    pub crate_version: String,
    /// Every rule of the kit, in its order.
    pub checks: Vec<VerdictCheck>,
}

/// One rule and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VerdictCheck {
    /// The rule's stable name.
    pub name: String,
    /// How it ended.
    pub result: VerdictResult,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum VerdictResult {
    /// The rule is kept.
    Passed,
    /// The rule is broken.
    Failed,
    /// The rule does not apply, such as one about tokens to a hook without them, or an
    /// earlier failure left nothing to check.
    NotChecked,
}

impl Verdict {
    /// Reads a verdict. `None` for a text that is none, or one that a later kit wrote in a
    /// way this version cannot read.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The text of the file: the same verdict always gives the same bytes.
    #[cfg(feature = "testing")]
    pub(crate) fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// True when something was checked and nothing failed.
    pub fn is_passed(&self) -> bool {
        let failed = |check: &VerdictCheck| check.result == VerdictResult::Failed;
        !self.checks.is_empty() && !self.checks.iter().any(failed)
    }

    /// True when it speaks of this hook in this version of its crate. A verdict on another
    /// version says nothing about the code that is linked.
    pub fn is_about(&self, hook: &str, crate_version: &str) -> bool {
        self.hook == hook && self.crate_version == crate_version
    }
}
