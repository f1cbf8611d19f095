//! Files that SOPS encrypted, and a program that plays `sops`.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Files, boot};
use molecule_hooks::HookErrorKind;
use serde_json::json;

const ENCRYPTED: &str = "A=ENC[AES256_GCM,data:p673w7RTo8g=,iv:ZmFrZQ==,tag:ZmFrZQ==,type:str]\n\
    sops_lastmodified=2026-01-02T03:04:05Z\n\
    sops_mac=ENC[AES256_GCM,data:bWFj,iv:ZmFrZQ==,tag:ZmFrZQ==,type:str]\n\
    sops_version=3.9.4\n";

/// Writes a shell script where `sops` is looked for.
fn sops(files: &Files, script: &str) -> String {
    files.write_with_mode(
        "bin/sops",
        format!("#!/bin/sh\n{script}\n").as_bytes(),
        0o755,
    );
    files.path("bin/sops").to_str().unwrap().to_owned()
}

fn encrypted(script: &str) -> (Files, String) {
    let files = Files::new();
    files.write("roles/qa/env", ENCRYPTED);
    let program = sops(&files, script);
    (files, program)
}

#[tokio::test]
async fn an_encrypted_file_is_decrypted_by_the_program() {
    let files = Files::new();
    files.write("common.env", "A=plain\nB=plain\n");
    files.write("roles/qa/env", ENCRYPTED);
    let record = files.path("record");
    let shown = record.display();
    sops(
        &files,
        &format!(
            "echo \"$@\" > {shown}.args; env | sort > {shown}.env; cat > {shown}.in; echo A=decrypted"
        ),
    );
    let path = format!("{}:/usr/bin:/bin", files.path("bin").display());
    let hook = files.hook(json!({
        "common_file": files.path("common.env"),
        "sops_env": { "PATH": path, "SOPS_AGE_KEY_FILE": "/run/secrets/age" },
    }));

    let (result, env) = boot(&hook, "qa").await;

    result.unwrap();
    assert_eq!(
        (env.get("A"), env.get("B")),
        (Some("decrypted"), Some("plain"))
    );
    let read = |what: &str| fs::read_to_string(format!("{shown}.{what}")).unwrap();
    assert_eq!(
        read("args"),
        "--decrypt --input-type dotenv --output-type dotenv /dev/stdin\n"
    );
    assert_eq!(read("in"), ENCRYPTED);
    let environment = read("env");
    assert!(environment.contains("SOPS_AGE_KEY_FILE=/run/secrets/age"));
    assert!(
        !environment.contains("CARGO"),
        "the server's own stays out: {environment}"
    );
}

#[tokio::test]
async fn a_plain_file_needs_no_program() {
    let files = Files::new();
    files.write("roles/qa/env", "A=1\n");
    let hook = files.hook(json!({ "sops_program": "/no/such/sops" }));
    boot(&hook, "qa").await.0.unwrap();
}

#[tokio::test]
async fn without_the_program_the_error_says_what_to_do() {
    let (files, _) = encrypted("true");
    let hook = files.hook(json!({ "sops_program": "no-such-sops" }));
    let error = boot(&hook, "qa").await.0.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "env-file: the file of the role: the file is encrypted with SOPS, and there is no program \"no-such-sops\"; install sops, or set sops_program to its path"
    );
}

#[tokio::test]
async fn a_program_that_fails_is_not_quoted() {
    for (script, how) in [
        (
            "echo planted7f3a91c2; echo planted7f3a91c2 >&2; exit 128",
            "exit code 128",
        ),
        ("kill -9 $$", "by a signal"),
        // Ends without reading.
        ("exit 1", "exit code 1"),
    ] {
        let (files, program) = encrypted(script);
        let hook = files.hook(json!({ "sops_program": program }));
        let error = boot(&hook, "qa").await.0.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert!(error.to_string().contains(how), "{error}");
        assert!(!format!("{error:?}").contains("planted"), "{error:?}");
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_ended() {
    let files = Files::new();
    files.write("roles/qa/env", ENCRYPTED);
    let pid = files.path("pid");
    let program = sops(
        &files,
        &format!("echo $$ > {}; exec sleep 600", pid.display()),
    );
    let hook = files.hook(json!({ "sops_program": program, "sops_timeout_secs": 2 }));
    let error = boot(&hook, "qa").await.0.unwrap_err();
    assert!(error.is_transient());
    assert!(
        error.to_string().contains("did not end within 2 seconds"),
        "{error}"
    );
    let Ok(pid) = fs::read_to_string(pid) else {
        // The machine was so slow that it had not even begun.
        return;
    };
    let process = format!("/proc/{}/status", pid.trim());
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_running(Path::new(&process)) {
        assert!(Instant::now() < deadline, "the program still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_running(status: &Path) -> bool {
    fs::read_to_string(status).is_ok_and(|text| !text.contains("State:\tZ"))
}

#[tokio::test]
async fn a_program_that_writes_for_ever_is_cut_off() {
    let (files, program) = encrypted("yes A=planted7f3a91c2");
    let hook = files.hook(json!({ "sops_program": program }));
    let error = boot(&hook, "qa").await.0.unwrap_err();
    assert!(
        error.to_string().contains("wrote more than 262144 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn what_it_writes_is_held_to_the_same_rules() {
    for (script, why) in [
        ("cat >/dev/null; echo planted7f3a91c2", "line 1 has no ="),
        (
            "cat >/dev/null; echo PATH=planted7f3a91c2",
            "reserved for the platform or the image",
        ),
    ] {
        let (files, program) = encrypted(script);
        let hook = files.hook(json!({ "sops_program": program }));
        let error = boot(&hook, "qa").await.0.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(!format!("{error:?}").contains("planted"));
    }
}
