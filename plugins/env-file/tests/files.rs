//! Which files count, and which are refused.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::{Files, ID, boot, build, workspace};
use molecule_hooks::{EnvMap, HookErrorKind, HooksConfig, Registry};
use serde_json::json;

const OTHER: &str = "0b9e4c1f-00d0-4000-8000-00000000abcd";

#[tokio::test]
async fn the_closer_file_wins() {
    let files = Files::new();
    files.write("common.env", "A=common\nB=common\nC=common\nD=common\n");
    files.write("roles/pmm-lead/env", "B=role\nC=role\nD=role\n");
    files.write("workspaces/Ada/env", "C=name\nD=name\n");
    files.write(&format!("workspaces/{ID}/env"), "D=id\n");
    files.write("roles/other/env", "E=other\n");
    let hook = files.hook(json!({ "common_file": files.path("common.env") }));

    let (result, env) = boot(&hook, "pmm-lead").await;

    result.unwrap();
    let all: Vec<_> = env.iter().collect();
    assert_eq!(
        all,
        [
            ("A", "common"),
            ("B", "role"),
            ("BY_HAND", "stored-by-hand"),
            ("C", "name"),
            ("D", "id")
        ]
    );
    assert!(env.names().all(|name| env.is_secret(name)));
}

#[tokio::test]
async fn the_persona_layout_works_from_its_variable() {
    let files = Files::new();
    files.write(
        "roles/core-devops/env",
        "\u{feff}# persona\r\nexport GITEA_USER='core-devops'\r\nGITEA_TOKEN=abc=def\r\nGITEA_SSH_KEY_PATH=\r\n",
    );
    let root = files.path("roles");
    let config = HooksConfig::new().with_env("MOLECULE_PERSONA_ROOT", root.to_str().unwrap());
    let hook = Registry::from_linked(&config)
        .unwrap()
        .snapshot()
        .pop()
        .unwrap();
    let (result, env) = boot(&hook, "core-devops").await;
    result.unwrap();
    assert_eq!(env.get("GITEA_USER"), Some("core-devops"));
    assert_eq!(env.get("GITEA_TOKEN"), Some("abc=def"));
    assert!(!env.contains("GITEA_SSH_KEY_PATH"));
}

#[tokio::test]
async fn an_empty_value_in_quotes_takes_back_what_an_earlier_file_set() {
    let files = Files::new();
    files.write("common.env", "A=common\nB=common\nBY_HAND=common\n");
    files.write("roles/qa/env", "A=\"\"\nB=\nUNKNOWN=\"\"\n");
    let hook = files.hook(json!({ "common_file": files.path("common.env") }));
    let (_, env) = boot(&hook, "qa").await;
    assert_eq!((env.get("A"), env.get("B")), (None, Some("common")));

    files.write("roles/qa/env", "BY_HAND=\"\"\n");
    let (_, env) = boot(&hook, "qa").await;
    assert_eq!(
        env.get("BY_HAND"),
        Some("stored-by-hand"),
        "others' variables stay"
    );
}

#[tokio::test]
async fn a_change_counts_at_the_next_boot() {
    let files = Files::new();
    let hook = files.hook(json!({}));
    assert_eq!(boot(&hook, "qa").await.1.get("A"), None);
    for value in ["1", "2"] {
        files.write("roles/qa/env", &format!("A={value}"));
        assert_eq!(boot(&hook, "qa").await.1.get("A"), Some(value));
    }
    fs::remove_dir_all(files.path("roles/qa")).unwrap();
    let (result, env) = boot(&hook, "qa").await;
    result.unwrap();
    assert_eq!(env.get("A"), None);
}

#[tokio::test]
async fn a_role_that_is_no_name_has_no_file() {
    let files = Files::new();
    files.write("env", "A=outside\n");
    files.write("roles/env", "A=root of the roles\n");
    let hook = files.hook(json!({}));
    for role in [
        "",
        ".",
        "..",
        "../roles",
        "a/b",
        "/",
        "Leads the team.",
        "a\nb",
        "%2e",
    ] {
        let (result, env) = boot(&hook, role).await;
        result.unwrap();
        assert!(!env.contains("A"), "{role:?}");
    }
}

#[tokio::test]
async fn links_are_refused_wherever_they_lead() {
    let files = Files::new();
    files.write("roles/real/env", "A=1\n");
    files.write("outside", "A=planted7f3a91c2\n");
    let linked = files.path("roles/linked");
    fs::create_dir(&linked).unwrap();
    symlink(files.path("outside"), linked.join("env")).unwrap();
    symlink(files.path("roles/real"), files.path("roles/folder")).unwrap();
    let within = files.path("roles/within");
    fs::create_dir(&within).unwrap();
    symlink("../real/env", within.join("env")).unwrap();
    let hook = files.hook(json!({}));
    for role in ["linked", "folder", "within"] {
        let (result, env) = boot(&hook, role).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert_eq!(
            error.to_string(),
            "env-file: the file of the role is or lies behind a symbolic link, which is not followed"
        );
        assert!(!env.contains("A"));
    }
    boot(&hook, "real").await.0.unwrap();
}

#[tokio::test]
async fn a_folder_reached_through_the_operators_link_is_fine() {
    let files = Files::new();
    files.write("roles/qa/env", "A=1\n");
    symlink(files.path("roles"), files.path("current")).unwrap();
    let hook = files.hook(json!({ "roles_dir": files.path("current") }));
    assert_eq!(boot(&hook, "qa").await.1.get("A"), Some("1"));
}

#[tokio::test]
async fn a_file_that_others_can_read_is_refused() {
    for mode in [0o604, 0o640, 0o602, 0o620, 0o601, 0o644, 0o666] {
        let files = Files::new();
        files.write_with_mode("roles/qa/env", b"A=planted7f3a91c2\n", mode);
        let error = boot(&files.hook(json!({})), "qa").await.0.unwrap_err();
        assert!(
            error.to_string().contains("`chmod 600`"),
            "{mode:o}: {error}"
        );
    }
    for mode in [0o600, 0o400, 0o700] {
        let files = Files::new();
        files.write_with_mode("roles/qa/env", b"A=1\n", mode);
        boot(&files.hook(json!({})), "qa").await.0.unwrap();
    }
}

#[tokio::test]
async fn a_common_file_of_a_mounted_secret_may_be_read_but_not_written_by_others() {
    for (mode, why) in [
        (0o444, None),
        (0o440, None),
        (0o644, None),
        (0o600, None),
        (0o664, Some("`chmod go-w`")),
        (0o646, Some("`chmod go-w`")),
    ] {
        let files = Files::new();
        // As Kubernetes mounts a secret: a link to what may be exchanged.
        files.write_with_mode("..data/common.env", b"A=1\n", mode);
        symlink(files.path("..data/common.env"), files.path("common.env")).unwrap();
        let hook = files.hook(json!({ "common_file": files.path("common.env") }));
        for _ in 0..2 {
            let (result, env) = boot(&hook, "qa").await;
            match why {
                None => {
                    result.unwrap();
                    assert_eq!(env.get("A"), Some("1"), "{mode:o}");
                }
                Some(why) => {
                    let error = result.unwrap_err();
                    assert!(error.to_string().contains(why), "{mode:o}: {error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_workspace_that_takes_the_id_of_another_as_its_name_gets_nothing_of_it() {
    let simple = OTHER.replace('-', "");
    for name in [OTHER, simple.as_str(), &OTHER.to_uppercase()] {
        let files = Files::new();
        files.write(&format!("workspaces/{name}/env"), "A=of the other\n");
        let hook = files.hook(json!({}));
        let thief = workspace("qa").with_name(name);
        let mut env = EnvMap::new();
        hook.apply(&thief, &mut env).await.unwrap();
        assert!(!env.contains("A"), "{name}");
    }
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_does_not_block() {
    let files = Files::new();
    fs::create_dir_all(files.path("roles/folder/env")).unwrap();
    fs::create_dir(files.path("roles/pipe")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(files.path("roles/pipe/env"))
        .status()
        .unwrap();
    assert!(made.success());
    files.write("roles/blocked", "A=1\n");
    let hook = files.hook(json!({}));
    for role in ["folder", "pipe"] {
        let error = boot(&hook, role).await.0.unwrap_err();
        assert!(
            error.to_string().contains("not a regular file"),
            "{role}: {error}"
        );
    }
    // A file in the place of the role's folder.
    boot(&hook, "blocked").await.0.unwrap_err();
}

#[tokio::test]
async fn a_bad_file_stops_the_boot_and_is_not_quoted() {
    for (bytes, why) in [
        (
            &b"A=1\nplanted7f3a91c2\n"[..],
            "the file of the role: line 2 has no =",
        ),
        (
            b"planted7f3a91c2-x=1\n",
            "line 1 does not start with the name of a variable",
        ),
        (
            b"A='planted7f3a91c2\n",
            "line 1 has a quote that is not closed",
        ),
        (
            b"WORKSPACE_ID=planted7f3a91c2\n",
            "line 1 sets a variable that is reserved",
        ),
        (b"A=planted7f3a91c2\xff\n", "it is not UTF-8 text"),
        (&[b'#'; 300_000], "longer than 262144 bytes"),
    ] {
        let files = Files::new();
        files.write_with_mode("roles/qa/env", bytes, 0o600);
        let (result, env) = boot(&files.hook(json!({})), "qa").await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert!(error.to_string().contains(why), "{error}");
        let shown = format!("{error:?} {}", error.chain());
        assert!(
            !shown.contains("planted") && !shown.contains("/tmp"),
            "{shown}"
        );
        assert_eq!(env.len(), 1);
    }
}

#[test]
fn without_a_file_or_folder_the_hook_is_off() {
    let registry = Registry::from_linked(&HooksConfig::new()).unwrap();
    assert_eq!(registry.skipped(), ["env-file"]);
}

#[test]
fn a_place_that_is_not_there_is_refused_at_start_up() {
    let files = Files::new();
    files.write("file", "");
    for (section, why) in [
        (
            json!({ "roles_dir": "roles" }),
            "roles_dir must be an absolute path",
        ),
        (
            json!({ "common_file": files.path("none") }),
            "common_file: ",
        ),
        (
            json!({ "workspaces_dir": files.path("file") }),
            "is not a folder",
        ),
        (json!({ "sops_timeout_secs": 9 }), "between 1 and 8 (got 9)"),
        (json!({ "sops_program": "" }), "sops_program must be"),
        (json!({ "sops_env": { "A-B": "x" } }), "sops_env must hold"),
        (json!({ "roles": "/x" }), "unknown key \"roles\""),
    ] {
        let error = build(section).expect_err("start-up must refuse");
        assert!(error.to_string().contains(why), "{error}");
    }
}
