//! The contract kit must find what is broken, by the id it promises, and nothing
//! in a hook that is in order.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

mod calls;
mod good;
mod sections;
mod sources;
mod tokens;
mod verdict;

use molecule_hooks::testing::{
    CALL_RULES, COMMON_RULES, HookContract, SECTION_RULES, SOURCE_RULES, TOKEN_RULES, Violation,
};

/// The ids a broken contract reports, in order.
async fn ids(contract: HookContract) -> Vec<&'static str> {
    violations(contract).await.iter().map(|v| v.id).collect()
}

async fn violations(contract: HookContract) -> Vec<Violation> {
    contract.check().await.err().unwrap_or_default()
}

#[test]
fn every_rule_has_a_broken_hook_that_it_catches() {
    let hooks = [
        include_str!("sections.rs"),
        include_str!("calls.rs"),
        include_str!("tokens.rs"),
    ]
    .concat();
    let sources = include_str!("sources.rs");
    let named = |text: &str, name: &str| {
        text.contains(&format!("\"{name}\"")) || text.contains(&format!("[{name}]"))
    };
    for rule in [SECTION_RULES, CALL_RULES, TOKEN_RULES, COMMON_RULES].concat() {
        assert!(named(&hooks, rule.name), "no hook breaks {}", rule.name);
        assert!(!rule.broken_when.ends_with('.'), "{rule:?}");
    }
    for rule in [SOURCE_RULES, COMMON_RULES].concat() {
        assert!(named(sources, rule.name), "no source breaks {}", rule.name);
    }
}
