//! What holds for any input.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::collections::BTreeMap;

use molecule_hooks::{
    EnvError, EnvMap, EnvMutator, EnvSource, HookError, MAX_ENV_NAME_BYTES, MAX_ENV_VALUE_BYTES,
    RESERVED_ENV_NAMES, Registry, Verdict, WorkspaceContext, async_trait, check_env_name,
    is_valid_hook_name, redact_token_shapes,
};
use proptest::prelude::*;

/// One thing a hook can do.
#[derive(Debug, Clone)]
enum Step {
    Set(String, String),
    SetSecret(String, String),
    Append(String, String),
    Copy(String, String),
    Remove(String),
    Yield,
    Fail,
}

#[derive(Debug, Clone)]
struct Script {
    name: String,
    steps: Vec<Step>,
}

#[async_trait]
impl EnvMutator for Script {
    fn name(&self) -> &str {
        &self.name
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        for step in &self.steps {
            match step {
                Step::Set(name, value) => env.set(name, value)?,
                Step::SetSecret(name, value) => env.set_secret(name, value)?,
                Step::Append(name, more) => {
                    let value = format!("{}{more}", env.get(name).unwrap_or_default());
                    env.set(name, value)?;
                }
                Step::Copy(from, to) => {
                    if let Some(value) = env.get(from).map(str::to_owned) {
                        env.set(to, value)?;
                    }
                }
                Step::Remove(name) => drop(env.remove(name)),
                Step::Yield => tokio::task::yield_now().await,
                Step::Fail => return Err(HookError::permanent("scripted")),
            }
        }
        Ok(())
    }
}

/// The same on a plain map. None when the hook fails.
fn model(script: &Script, map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut map = map.clone();
    for step in &script.steps {
        match step {
            Step::Set(name, value) | Step::SetSecret(name, value) => {
                map.insert(name.clone(), value.clone());
            }
            Step::Append(name, more) => map.entry(name.clone()).or_default().push_str(more),
            Step::Copy(from, to) => {
                if let Some(value) = map.get(from).cloned() {
                    map.insert(to.clone(), value);
                }
            }
            Step::Remove(name) => drop(map.remove(name)),
            Step::Yield => {}
            Step::Fail => return None,
        }
    }
    Some(map)
}

/// Few names, so that hooks meet each other's variables.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[A-D]", Just("PATH".to_owned()), "_[a-z]"]
}

fn step() -> impl Strategy<Value = Step> {
    let value = "[^\\x00]{0,6}";
    prop_oneof![
        6 => (name(), value).prop_map(|(n, v)| Step::Set(n, v)),
        2 => (name(), value).prop_map(|(n, v)| Step::SetSecret(n, v)),
        3 => (name(), value).prop_map(|(n, v)| Step::Append(n, v)),
        2 => (name(), name()).prop_map(|(a, b)| Step::Copy(a, b)),
        3 => name().prop_map(Step::Remove),
        1 => Just(Step::Yield),
        1 => Just(Step::Fail),
    ]
}

fn chain() -> impl Strategy<Value = Vec<Script>> {
    let steps = prop::collection::vec(step(), 0..6);
    prop::collection::vec(steps, 0..8).prop_map(|hooks| {
        hooks
            .into_iter()
            .enumerate()
            .map(|(at, steps)| Script {
                name: format!("hook-{at}"),
                steps,
            })
            .collect()
    })
}

fn plain(env: &EnvMap) -> BTreeMap<String, String> {
    env.iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn run(chain: &[Script], env: &mut EnvMap) -> Option<String> {
    let registry = chain.iter().cloned().fold(Registry::new(), Registry::with);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime
        .block_on(registry.run(&WorkspaceContext::new("7aa0"), env))
        .err()
        .map(|error| error.to_string())
}

fn last_writers(env: &EnvMap) -> BTreeMap<String, Option<EnvSource>> {
    env.names()
        .map(|name| (name.to_owned(), env.provenance(name).last().cloned()))
        .collect()
}

proptest! {
    #[test]
    fn a_chain_equals_its_hooks_one_after_the_other_on_a_plain_map(
        chain in chain(),
        start in prop::collection::btree_map(name(), "[a-z]{0,4}", 0..4),
    ) {
        let mut env = EnvMap::new();
        for (name, value) in &start {
            env.set(name, value).unwrap();
        }
        let error = run(&chain, &mut env);

        let mut expected = start;
        let mut failed = None;
        for script in &chain {
            match model(script, &expected) {
                Some(map) => expected = map,
                None => {
                    failed = Some(format!("provisionhook {:?}: scripted", script.name));
                    break;
                }
            }
        }
        prop_assert_eq!(plain(&env), expected);
        prop_assert_eq!(error, failed);
    }

    #[test]
    fn a_failing_hook_changes_nothing(before in chain(), mut failing in chain()) {
        let mut env = EnvMap::new();
        let before: Vec<Script> = before
            .into_iter()
            .filter(|script| !script.steps.iter().any(|step| matches!(step, Step::Fail)))
            .collect();
        prop_assert_eq!(run(&before, &mut env), None);
        let (values, writers) = (plain(&env), last_writers(&env));
        let secrets: Vec<bool> = env.names().map(|name| env.is_secret(name)).collect();

        failing.truncate(1);
        for script in &mut failing {
            script.steps.push(Step::Fail);
            prop_assert!(run(std::slice::from_ref(script), &mut env).is_some());
        }

        prop_assert_eq!(plain(&env), values);
        prop_assert_eq!(last_writers(&env), writers);
        let after: Vec<bool> = env.names().map(|name| env.is_secret(name)).collect();
        prop_assert_eq!(after, secrets);
    }

    #[test]
    fn the_map_takes_exactly_what_an_environment_can_carry(
        name in prop_oneof![".{0,8}", "[A-Za-z_][A-Za-z0-9_]{0,140}", "[A-Z=\\x00 -]{0,4}"],
        value in prop_oneof![".{0,8}", "[a\\x00]{0,3}"],
    ) {
        let well_formed = !name.is_empty()
            && name.len() <= MAX_ENV_NAME_BYTES
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let allowed = well_formed
            && !RESERVED_ENV_NAMES.contains(&name.as_str())
            && !value.contains('\0');
        let mut env = EnvMap::new();
        let outcome = env.set(&name, value.clone());
        prop_assert_eq!(outcome.is_ok(), allowed);
        prop_assert_eq!(env.get(&name), allowed.then_some(value.as_str()));
        prop_assert_eq!(env.len(), usize::from(allowed));
        if !well_formed {
            prop_assert!(matches!(check_env_name(&name), Err(EnvError::InvalidName(_))));
        }
    }

    #[test]
    fn a_refusal_never_repeats_the_value(name in ".{0,8}", end in "[a\\x00]{0,3}") {
        let mut env = EnvMap::new();
        if let Err(error) = env.set(&name, format!("planted-value{end}")) {
            prop_assert!(!error.to_string().contains("planted"));
            prop_assert!(!HookError::from(error).chain().contains("planted"));
        }
    }

    #[test]
    fn values_are_bounded(extra in 0_usize..3) {
        let value = "v".repeat(MAX_ENV_VALUE_BYTES - 1 + extra);
        let outcome = EnvMap::new().set("A", value);
        prop_assert_eq!(outcome.is_ok(), extra < 2);
    }

    #[test]
    fn changed_names_are_those_that_differ(
        before in prop::collection::btree_map(name(), "[ab]", 0..5),
        after in prop::collection::btree_map(name(), "[ab]", 0..5),
    ) {
        let map = |pairs: &BTreeMap<String, String>| {
            let mut env = EnvMap::new();
            for (name, value) in pairs {
                env.set(name, value).unwrap();
            }
            env
        };
        let (a, b) = (map(&before), map(&after));
        let expected: Vec<&str> = before
            .keys()
            .chain(after.keys())
            .map(String::as_str)
            .filter(|name| before.get(*name) != after.get(*name))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        prop_assert_eq!(a.changed_names(&b), expected);
    }

    #[test]
    fn hook_names_are_lower_kebab(name in prop_oneof!["[a-z0-9-]{0,12}", ".{0,6}"]) {
        let expected = !name.is_empty()
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.split('-').all(|part| {
                !part.is_empty()
                    && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            });
        prop_assert_eq!(is_valid_hook_name(&name), expected);
    }
}

/// Pieces that masking looks for, whole and broken, among ordinary text.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        ".{0,12}",
        "[ -~]{0,20}",
        "(ghs_|ghp_|sk-|eyJ|AKIA|glpat-|github_pat_)[A-Za-z0-9_]{0,30}",
        "(Bearer |bearer |Basic |basic )[A-Za-z0-9=]{0,20}",
        "https?://[a-z:@./?#]{0,20}",
        Just("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n-----END PRIVATE KEY-----".to_owned()),
        Just("[REDACTED]".to_owned()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn masking_never_panics_and_is_idempotent(text in text()) {
        let once = redact_token_shapes(&text);
        prop_assert_eq!(redact_token_shapes(&once), once);
    }

    #[test]
    fn a_planted_token_is_never_left(
        before in text(),
        token in "(ghs|ghp|gho|ghu|ghr)_[A-Za-z0-9]{36}",
        after in text(),
    ) {
        let masked = redact_token_shapes(&format!("{before}{token}{after}"));
        let body = &token[4..];
        prop_assert!(!masked.contains(body), "{}", masked);
        let error = HookError::permanent(format!("{before}{token}{after}"));
        let shown = [error.to_string(), format!("{error:?}"), error.chain()].concat();
        prop_assert!(!shown.contains(body), "{}", shown);
    }

    #[test]
    fn the_password_of_a_url_is_never_left(
        before in "[a-z ]{0,10}",
        scheme in "(https|postgres|redis|amqp)",
        user in "[a-z]{1,8}",
        password in "[0-9][A-Za-z0-9._~!$&*+,;=%-]{5,20}",
    ) {
        let masked = redact_token_shapes(&format!("{before}{scheme}://{user}:{password}@db.example.org/x"));
        prop_assert!(!masked.contains(&password), "{}", masked);
        prop_assert!(masked.ends_with("@db.example.org/x"));
    }

    #[test]
    fn plain_prose_is_left_alone(words in prop::collection::vec("[a-z]{1,14}(-[a-z]{1,14})?[,.:]?", 0..20)) {
        let text = words
            .into_iter()
            .filter(|word| !word.starts_with("sk-"))
            .collect::<Vec<_>>()
            .join(" ");
        // The word "bearer" announces a credential, whatever follows.
        prop_assume!(!text.contains("bearer "));
        prop_assert_eq!(redact_token_shapes(&text), text);
    }

    #[test]
    fn a_verdict_is_read_or_not_and_never_panics(text in text(), passed in any::<bool>()) {
        let _ = Verdict::parse(&text);
        let result = if passed { "passed" } else { "failed" };
        let file = serde_json::json!({
            "kit_version": 1,
            "hook": text,
            "crate_version": text,
            "checks": [{ "name": text, "result": result }],
        });
        let verdict = Verdict::parse(&file.to_string());
        prop_assert!(verdict.is_some_and(|it| it.is_about(&text, &text) && it.is_passed() == passed));
    }
}
