//! The file that tells what the kit found.

use std::fs;
use std::path::Path;
use std::process::Command;

use molecule_hooks::testing::{HookContract, KIT_VERSION, ScriptedUpstream, assert_hook_contract};
use molecule_hooks::{HookDescriptor, Verdict, VerdictResult};

/// Names the file for the copy of this program that writes it.
const FILE: &str = "CONTRACT_TEST_VERDICT_FILE";

/// Does nothing unless it is called by [`write`]: a test cannot change its own environment.
#[tokio::test]
async fn writes_where_it_is_told_to() {
    if let Some(path) = std::env::var_os(FILE) {
        let upstream = ScriptedUpstream::start().await.unwrap();
        let contract = crate::good::contract(&upstream);
        assert_hook_contract(contract.verdict_file(path)).await;
    }
}

/// Runs the contract of the good hook with this file and this wish to write.
fn run(file: &Path, wish: Option<&str>) -> (bool, String) {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args(["--exact", "verdict::writes_where_it_is_told_to"])
        .env(FILE, file)
        .env_remove("MOLECULE_WRITE_VERDICT");
    if let Some(wish) = wish {
        program.env("MOLECULE_WRITE_VERDICT", wish);
    }
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("running 1 test"), "{text}");
    (output.status.success(), text)
}

#[test]
fn a_verdict_is_written_on_request_and_compared_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("contract.json");

    for wish in [None, Some("0"), Some("")] {
        let (passed, text) = run(&file, wish);
        assert!(!passed && !file.exists());
        assert!(text.contains("is not current: it does not exist"), "{text}");
        assert!(text.contains("hint: write it again with `MOLECULE_WRITE_VERDICT=1 cargo test`"));
    }

    assert!(run(&file, Some("1")).0);
    let first = fs::read_to_string(&file).unwrap();
    assert!(run(&file, None).0, "what was written is current");
    assert!(run(&file, Some("1")).0);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        first,
        "always the same bytes"
    );

    assert!(first.starts_with("{\n  \"kit_version\": ") && first.ends_with("]\n}\n"));
    let verdict = Verdict::parse(&first).unwrap();
    assert_eq!(verdict.kit_version, KIT_VERSION);
    assert!(verdict.is_about("good", env!("CARGO_PKG_VERSION")));
    assert!(verdict.is_passed());
    let passed = |check: &molecule_hooks::VerdictCheck| check.result == VerdictResult::Passed;
    assert!(verdict.checks.iter().all(passed), "{first}");

    for (from, to, problem) in [
        ("\"good\"", "\"bad\"", "it is about \"bad\", not \"good\""),
        (
            concat!("\"", env!("CARGO_PKG_VERSION"), "\""),
            "\"0.0.9\"",
            "it is about version 0.0.9 of the crate",
        ),
        (
            "\"kit_version\": ",
            "\"kit_version\": 9",
            "of the contract kit, this is",
        ),
        ("\"passed\"", "\"failed\"", "was Failed and is Passed"),
        (
            "\"call-failed\"",
            "\"call-fails\"",
            "call-failed is missing",
        ),
        ("{\n", "{ ", "it was written in another way"),
        ("{\n", "", "it holds no verdict"),
    ] {
        fs::write(&file, first.replacen(from, to, 1)).unwrap();
        let (passed, text) = run(&file, None);
        assert!(!passed && text.contains(problem), "{problem}: {text}");
    }
}

#[tokio::test]
async fn a_hook_that_was_built_by_hand_has_no_verdict() {
    let hook = std::sync::Arc::new(crate::good::Plain);
    let contract = HookContract::of_instance(hook).verdict_file("contract.json");
    let ended = tokio::spawn(assert_hook_contract(contract)).await;
    let message = ended.unwrap_err().into_panic();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(
        message.starts_with("verdict_file is for something linked"),
        "{message}"
    );
}

mod embedded {
    use molecule_hooks::{BuildContext, BuildResult, NoConfig, register_hook};

    fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
        Ok(None)
    }

    register_hook! {
        name: "with-a-verdict",
        description: "x",
        config: NoConfig,
        build: build,
        contract: r#"{
            "kit_version": 1,
            "hook": "with-a-verdict",
            "crate_version": "0.0.9",
            "checks": [
                { "name": "call-failed", "result": "failed" },
                { "name": "token-failed", "result": "not-checked" }
            ]
        }"#,
    }

    register_hook! {
        name: "with-no-verdict",
        description: "x",
        config: NoConfig,
        build: build,
        contract: "{}",
    }
}

#[test]
fn a_descriptor_tells_the_verdict_it_embeds() {
    let linked = HookDescriptor::linked();
    let named = |name: &str| *linked.iter().find(|hook| hook.name == name).unwrap();
    let verdict = named("with-a-verdict").verdict().unwrap();
    assert!(!verdict.is_passed());
    assert!(!verdict.is_about("with-a-verdict", env!("CARGO_PKG_VERSION")));
    assert!(verdict.is_about("with-a-verdict", "0.0.9"));
    assert_eq!(verdict.checks[1].result, VerdictResult::NotChecked);
    assert_eq!(named("with-no-verdict").verdict(), None);
    assert_eq!(named("good").verdict(), None);
}
