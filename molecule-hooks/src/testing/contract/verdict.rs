//! From findings to a verdict, and to the end of a test.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::verdict::{Verdict, VerdictCheck, VerdictResult};

use super::findings::Findings;
use super::linked::Linked;
use super::rules::KIT_VERSION;
use super::setup::{Setup, Subject};

/// Set to `1`, it lets the assertions write verdicts instead of comparing them.
const WRITE: &str = "MOLECULE_WRITE_VERDICT";

/// Panics when a rule is broken or the verdict is not current.
pub(super) fn conclude<L: Linked, T: ?Sized>(
    linked: &[L],
    setup: &Setup<T>,
    name: &str,
    findings: Findings,
) {
    let mut problems = Vec::new();
    let broken = findings.violations();
    if !broken.is_empty() {
        let list: String = broken.iter().map(|v| format!("\n  - {v}")).collect();
        problems.push(format!(
            "{} {name:?} breaks {} rule(s) of its contract:{list}",
            L::KIND,
            broken.len()
        ));
    }
    if let Some(path) = &setup.verdict
        && let Err(problem) = judge(linked, &setup.subject, name, &findings)
            .map_or(Ok(()), |verdict| settle(path, &verdict?))
    {
        problems.push(problem);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The verdict; `None` when nothing of the name is linked, which is told elsewhere.
fn judge<L: Linked, T: ?Sized>(
    linked: &[L],
    subject: &Subject<T>,
    name: &str,
    findings: &Findings,
) -> Option<Result<Verdict, String>> {
    if matches!(subject, Subject::Instance(_)) {
        let text = "verdict_file is for something linked: a verdict names the version of its crate";
        return Some(Err(text.to_owned()));
    }
    let linked = linked.iter().find(|linked| linked.name() == name)?;
    Some(Ok(Verdict {
        kit_version: KIT_VERSION,
        hook: name.to_owned(),
        crate_version: linked.version().to_owned(),
        checks: findings.checks(),
    }))
}

/// Writes the verdict or compares it with the file.
fn settle(path: &Path, verdict: &Verdict) -> Result<(), String> {
    let shown = path.display();
    let text = verdict.to_text();
    let there = match fs::read_to_string(path) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{shown} cannot be read: {error}")),
    };
    if there.as_ref() == Some(&text) {
        return Ok(());
    }
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        return fs::write(path, text)
            .map_err(|error| format!("{shown} cannot be written: {error}"));
    }
    let difference = match there {
        None => "it does not exist".to_owned(),
        Some(there) => match Verdict::parse(&there) {
            None => "it holds no verdict".to_owned(),
            Some(there) => difference(&there, verdict),
        },
    };
    Err(format!(
        "{shown} is not current: {difference}\nhint: write it again with `{WRITE}=1 cargo test`"
    ))
}

fn difference(there: &Verdict, found: &Verdict) -> String {
    if there.hook != found.hook {
        return format!("it is about {:?}, not {:?}", there.hook, found.hook);
    }
    if there.crate_version != found.crate_version {
        let (old, new) = (&there.crate_version, &found.crate_version);
        return format!("it is about version {old} of the crate, which is at {new}");
    }
    if there.kit_version != found.kit_version {
        let (old, new) = (there.kit_version, found.kit_version);
        return format!("it was written by version {old} of the contract kit, this is {new}");
    }
    let result = |verdict: &Verdict, name: &str| -> Option<VerdictResult> {
        let of_name = |check: &&VerdictCheck| check.name == name;
        verdict
            .checks
            .iter()
            .find(of_name)
            .map(|check| check.result)
    };
    let changed = found.checks.iter().find_map(|check| {
        let old = result(there, &check.name);
        (old != Some(check.result)).then(|| match old {
            Some(old) => format!("{} was {old:?} and is {:?}", check.name, check.result),
            None => format!("{} is missing", check.name),
        })
    });
    changed.unwrap_or_else(|| "it was written in another way".to_owned())
}
