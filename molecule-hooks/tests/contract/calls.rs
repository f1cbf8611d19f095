//! Hooks that are broken when they are called.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use molecule_hooks::testing::HookContract;
use molecule_hooks::{
    Clock, EnvMap, EnvMutator, HookError, WorkspaceContext, async_trait, tracing,
};

use crate::{ids, violations};

/// One hook, broken in the way it is told.
#[derive(Default)]
struct Broken {
    how: How,
    calls: AtomicUsize,
    busy: AtomicBool,
}

#[derive(Default, Clone, Copy)]
enum How {
    #[default]
    BadName,
    Fails,
    SetsReservedName,
    Panics,
    Hangs,
    SetsAnotherVariableEachTime,
    FailsOnItsOwnResult,
    RefusesCompany,
    StaysBusyWhenDropped,
    PanicsOnShortValue,
    PanicsOnManyVariables,
    HangsOnOddValue,
    SlicesTheId,
    QuotesASecret,
    LogsASecret,
    LogsWhatItWrote,
    LogsWithinASpan,
    IgnoresABadName,
    IgnoresABadValue,
    WritesWhatHasExpired,
    ShowsASecret,
    KeepsTheThreadWaiting,
}

#[async_trait]
impl EnvMutator for Broken {
    fn name(&self) -> &str {
        match self.how {
            How::BadName => "Bad_Name",
            _ => "broken",
        }
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let input = env.get("INPUT").unwrap_or("default").to_owned();
        match self.how {
            How::BadName => {}
            How::Fails => return Err(HookError::transient("out of order")),
            How::SetsReservedName => env.set("ADMIN_TOKEN", "x")?,
            How::Panics => panic!("on purpose"),
            How::Hangs => pending().await,
            How::SetsAnotherVariableEachTime => env.set(&format!("CALL_{call}"), "x")?,
            How::FailsOnItsOwnResult if env.contains("DONE") => {
                return Err(HookError::permanent("was here before"));
            }
            How::FailsOnItsOwnResult => env.set("DONE", "x")?,
            How::RefusesCompany => {
                if self.busy.swap(true, Ordering::SeqCst) {
                    return Err(HookError::transient("busy"));
                }
                let _free = FreeOnDrop(&self.busy);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            How::StaysBusyWhenDropped => {
                // Waits for its turn politely, but forgets to give it back.
                while self.busy.swap(true, Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.busy.store(false, Ordering::SeqCst);
            }
            How::PanicsOnShortValue => drop(input[..2].to_owned()),
            How::PanicsOnManyVariables => assert!(env.len() < 500),
            How::HangsOnOddValue if input.contains('\n') => pending().await,
            How::HangsOnOddValue => {}
            How::SlicesTheId => env.set("SHORT_ID", &workspace.id[..8])?,
            How::QuotesASecret => {
                if input != "good secret" && input != "default" {
                    return Err(HookError::permanent(format!("cannot use {input:?}")));
                }
            }
            How::LogsASecret => tracing::debug!(input, "read"),
            How::LogsWhatItWrote => {
                tracing::info!("writing {}", "fresh-credential");
                env.set_secret("CREDENTIAL", "fresh-credential")?;
            }
            How::LogsWithinASpan => {
                let _span = tracing::info_span!("reading", value = input).entered();
            }
            How::IgnoresABadName => {
                let _ = env.set("MY-TOKEN", "x");
                let _ = env.set("ADMIN_TOKEN", "x");
            }
            How::IgnoresABadValue => drop(env.set("LONG", "x".repeat(100_000))),
            How::WritesWhatHasExpired => {
                let past = Clock::system().now() - Duration::from_secs(60);
                env.set_secret_until("CREDENTIAL", "old-credential", past)?;
            }
            How::ShowsASecret => env.set("PROXY", format!("http://user:{input}@proxy"))?,
            How::KeepsTheThreadWaiting => std::thread::sleep(Duration::from_millis(1200)),
        }
        Ok(())
    }
}

struct FreeOnDrop<'a>(&'a AtomicBool);

impl Drop for FreeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn contract(how: How) -> HookContract {
    let hook = Broken {
        how,
        ..Broken::default()
    };
    HookContract::of_instance(Arc::new(hook)).deadline(Duration::from_secs(5))
}

/// For hooks that hang: the deadline is waited for.
fn hasty(how: How) -> HookContract {
    contract(how).deadline(Duration::from_millis(100))
}

#[tokio::test]
async fn invalid_name() {
    assert_eq!(ids(contract(How::BadName)).await, ["invalid-name"]);
}

#[tokio::test]
async fn call_failed() {
    let found = violations(contract(How::Fails)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].to_string(), "[call-failed] out of order");
    let found = violations(contract(How::SetsReservedName)).await;
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "[env-key-invalid] ADMIN_TOKEN is reserved for the platform",
            "[call-failed] ADMIN_TOKEN is reserved for the platform"
        ]
    );
}

#[tokio::test]
async fn a_refused_variable_is_found_even_when_the_hook_ignores_it() {
    let found = violations(contract(How::IgnoresABadName)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        "[env-key-invalid] \"MY-TOKEN\" is not a valid environment variable name"
    );
    let found = ids(contract(How::IgnoresABadValue)).await;
    assert_eq!(found, ["env-value-invalid"]);
}

#[tokio::test]
async fn env_expired() {
    let found = ids(contract(How::WritesWhatHasExpired)).await;
    assert_eq!(found, ["env-expired"]);
}

#[tokio::test]
async fn secret_visible() {
    let secret = contract(How::ShowsASecret).workspace_secret("INPUT", "good secret");
    let found = violations(secret).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].id, "secret-visible");
    assert!(found[0].message.contains("PROXY"), "{}", found[0]);
    assert!(!found[0].message.contains("good secret"));
    let visible = contract(How::ShowsASecret).workspace_env("INPUT", "good secret");
    assert_eq!(ids(visible).await, [""; 0]);
}

#[tokio::test]
async fn blocks_the_thread() {
    let found = ids(contract(How::KeepsTheThreadWaiting)).await;
    assert_eq!(found, ["blocks-the-thread"]);
}

#[tokio::test]
async fn call_panics() {
    assert_eq!(ids(contract(How::Panics)).await, ["call-panics"]);
}

#[tokio::test]
async fn call_timeout() {
    assert_eq!(ids(hasty(How::Hangs)).await, ["call-timeout"]);
}

#[tokio::test]
async fn call_timeout_on_an_odd_value() {
    let contract = contract(How::HangsOnOddValue)
        .deadline(Duration::from_secs(2))
        .workspace_env("INPUT", "fine");
    assert_eq!(ids(contract).await, ["call-timeout"]);
}

#[tokio::test]
async fn not_idempotent() {
    let found = ids(contract(How::SetsAnotherVariableEachTime)).await;
    assert_eq!(found, ["not-idempotent", "not-concurrent"]);
    let found = violations(contract(How::FailsOnItsOwnResult)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        "[not-idempotent] a call on its own result fails with a Permanent error"
    );
}

#[tokio::test]
async fn not_concurrent() {
    assert_eq!(ids(contract(How::RefusesCompany)).await, ["not-concurrent"]);
}

#[tokio::test]
async fn not_cancel_safe() {
    let contract = contract(How::StaysBusyWhenDropped).deadline(Duration::from_secs(1));
    assert!(ids(contract).await.contains(&"not-cancel-safe"));
}

#[tokio::test]
async fn hostile_env_panics() {
    let short = contract(How::PanicsOnShortValue).workspace_env("INPUT", "fine");
    assert_eq!(ids(short).await, ["hostile-env-panics"]);
    let many = contract(How::PanicsOnManyVariables);
    assert_eq!(ids(many).await, ["hostile-env-panics"]);
}

#[tokio::test]
async fn hostile_workspace_panics() {
    assert_eq!(
        ids(contract(How::SlicesTheId)).await,
        ["hostile-workspace-panics"]
    );
}

#[tokio::test]
async fn secret_in_error() {
    let secret = contract(How::QuotesASecret).workspace_secret("INPUT", "good secret");
    assert_eq!(ids(secret).await, ["secret-in-error"]);
    let visible = contract(How::QuotesASecret).workspace_env("INPUT", "good secret");
    assert_eq!(ids(visible).await, [""; 0], "a visible value may be quoted");
}

#[tokio::test]
async fn secret_in_log() {
    for how in [How::LogsASecret, How::LogsWithinASpan] {
        let secret = contract(how).workspace_secret("INPUT", "good secret");
        assert_eq!(ids(secret).await, ["secret-in-log"]);
        let visible = contract(how).workspace_env("INPUT", "good secret");
        assert_eq!(ids(visible).await, [""; 0]);
    }
    let found = violations(contract(How::LogsWhatItWrote)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        "[secret-in-log] a secret can be read in the log, after \"message=writing \""
    );
}
