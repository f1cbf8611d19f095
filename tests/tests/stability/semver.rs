//! What a difference between two interfaces means for those who use them.

use crate::api::Api;
use crate::foreign::compatible;

/// A difference, and whether it can stop a hook crate from compiling.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) line: String,
    pub(crate) breaking: bool,
}

/// Every difference, what is gone first.
pub(crate) fn changes(released: &Api, current: &Api) -> Vec<Change> {
    let gone = released.lines.difference(&current.lines);
    let new = current.lines.difference(&released.lines);
    let gone = gone.map(|line| Change {
        line: line.clone(),
        breaking: !is_promise_of_less(line),
    });
    let new = new.map(|line| Change {
        line: line.clone(),
        breaking: breaks_when_added(released, line),
    });
    gone.chain(new).collect()
}

/// Lines whose end asks less of others: a method that need not be implemented any more.
fn is_promise_of_less(line: &str) -> bool {
    line.starts_with("must be implemented: ")
}

fn breaks_when_added(released: &Api, line: &str) -> bool {
    if let Some(method) = line.strip_prefix("must be implemented: ") {
        // All methods of a new trait are new, and nobody implements it yet.
        let owner = method.split("::").next().unwrap_or_default();
        return has_item(released, "pub trait ", owner);
    }
    // `pub molecule_hooks::Token::expires_at: …` or `pub molecule_hooks::Kind::Other`:
    // a field or a variant.
    let Some(member) = line.strip_prefix("pub molecule_hooks::") else {
        return false;
    };
    let path = member
        .split([':', '(', ' '])
        .filter(|part| !part.is_empty());
    let names: Vec<&str> = path.collect();
    names.iter().any(|owner| {
        let whole = ["matched whole: enum ", "built whole: struct "];
        whole
            .iter()
            .any(|what| released.lines.contains(&format!("{what}{owner}")))
    })
}

fn has_item(api: &Api, kind: &str, name: &str) -> bool {
    api.lines.iter().any(|line| {
        line.strip_prefix(kind).is_some_and(|rest| {
            let path = rest.split([' ', '<']).next().unwrap_or_default();
            let path = path.trim_end_matches(':');
            path.rsplit("::").next() == Some(name)
        })
    })
}

/// Whether a version that is `next` may break what relied on `released`.
fn may_break(released: &str, next: &str) -> bool {
    compatible(released) != compatible(next)
}

#[test]
fn what_breaks_hook_crates_comes_with_a_version_that_may() {
    let (released, current) = (Api::released(), Api::current());
    assert!(
        !released.lines.is_empty(),
        "molecule-hooks/api/released.txt is empty"
    );
    if may_break(&released.version, &current.version) {
        return;
    }
    let offenders: Vec<_> = changes(&released, &current)
        .into_iter()
        .filter(|change| change.breaking)
        .map(|change| change.line)
        .collect();
    crate::assert_none(
        &offenders,
        &format!(
            "these lines are gone from, or new in, the interface of molecule-hooks, and can stop a hook \
             crate from compiling, while version {} is still compatible with {}, the one that was \
             released. Keep the old item beside the new one and deprecate it, or raise the version",
            current.version, released.version
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(lines: &[&str]) -> Api {
        Api::parse(&format!("# molecule-hooks 0.1.0\n{}", lines.join("\n")))
    }

    fn breaking(released: &[&str], current: &[&str]) -> Vec<bool> {
        let found = changes(&api(released), &api(current));
        found.into_iter().map(|change| change.breaking).collect()
    }

    #[test]
    fn what_is_gone_breaks() {
        let item = "pub fn molecule_hooks::EnvMap::set(&mut self)";
        assert_eq!(breaking(&[item], &[]), [true]);
        assert_eq!(breaking(&[], &[item]), [false]);
        assert_eq!(breaking(&[item], &[item]), [false; 0]);
    }

    #[test]
    fn a_changed_signature_is_one_that_is_gone() {
        let found = breaking(
            &["pub fn molecule_hooks::EnvMap::len(&self) -> usize"],
            &["pub fn molecule_hooks::EnvMap::len(&self) -> u64"],
        );
        assert_eq!(found, [true, false]);
    }

    #[test]
    fn a_method_without_a_body_breaks_who_implements_the_trait() {
        let method = "must be implemented: EnvMutator::refresh";
        let with = ["pub trait molecule_hooks::EnvMutator: core::marker::Send"];
        assert_eq!(breaking(&with, &[with[0], method]), [true]);
        // In a trait that is new itself, it breaks nobody.
        assert_eq!(breaking(&[], &[method]), [false]);
        // And one with a body now asks for less than before.
        assert_eq!(breaking(&[with[0], method], &with), [false]);
    }

    #[test]
    fn more_in_a_type_breaks_unless_it_was_kept_open() {
        let field = "pub molecule_hooks::Token::issued_at: u64";
        let whole = "built whole: struct Token";
        assert_eq!(breaking(&[whole], &[whole, field]), [true]);
        assert_eq!(breaking(&[], &[field]), [false]);
        let variant = "pub molecule_hooks::TokenScope::PerRole";
        let whole = "matched whole: enum TokenScope";
        assert_eq!(breaking(&[whole], &[whole, variant]), [true]);
        assert_eq!(breaking(&[], &[variant]), [false]);
    }

    #[test]
    fn a_foreign_crate_of_another_version_breaks() {
        let found = breaking(
            &["foreign crate: chrono 0.4"],
            &["foreign crate: chrono 0.5"],
        );
        assert_eq!(found, [true, false]);
    }

    #[test]
    fn only_some_versions_may_break() {
        for (released, next, may) in [
            ("0.1.0", "0.1.1", false),
            ("0.1.0", "0.2.0", true),
            ("1.2.0", "1.3.0", false),
            ("1.2.0", "2.0.0", true),
        ] {
            assert_eq!(may_break(released, next), may, "{released} {next}");
        }
    }
}
