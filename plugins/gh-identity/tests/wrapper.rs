//! The `gh` wrapper, run by every shell of this machine: what gh gets to see.

#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod machine;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use machine::{BADGE, FIXED_PLACES, Machine, fake_gh, nasty, shells};
use serde_json::Value;

#[test]
fn without_a_role_it_passes_everything_through() {
    for shell in shells() {
        for role in [None, Some("")] {
            let mut machine = Machine::new(&shell).set("FAKE_RC", "7");
            machine
                .env
                .retain(|(name, _)| *name != "MOLECULE_AGENT_ROLE");
            if let Some(role) = role {
                machine = machine.set("MOLECULE_AGENT_ROLE", role);
            }
            let mut args: Vec<OsString> = ["issue", "create", "--assignee", "@me", "--body", "x"]
                .map(OsString::from)
                .to_vec();
            args.extend(nasty());

            let call = machine.run(&args);

            assert_eq!(call.output.status.code(), Some(7));
            assert_eq!(call.gh.unwrap().1, args);
            assert_eq!(call.stdin, b"from stdin");
            assert_eq!(machine.log(), Vec::<Value>::new());
        }
    }
}

#[test]
fn any_argument_survives_and_standard_input_is_gh_s() {
    for shell in shells() {
        for command in [
            vec!["api"],
            vec!["issue", "create"],
            vec!["pr", "comment", "1"],
        ] {
            let machine = Machine::new(&shell);
            let mut args: Vec<OsString> = command.iter().map(OsString::from).collect();
            args.extend(nasty());
            let call = machine.run(&args);
            assert_eq!(call.gh.unwrap().1, args, "{shell:?}");
            assert_eq!(call.stdin, b"from stdin");
        }
        let machine = Machine::new(&shell);
        assert_eq!(machine.args(&[]), Vec::<String>::new());
        let mut body = BADGE.as_bytes().to_vec();
        body.extend_from_slice(b"\n\n");
        for arg in nasty() {
            let call = machine.run(&[
                OsStr::new("issue"),
                OsStr::new("create"),
                OsStr::new("--body"),
                &arg,
            ]);
            let expected = [&body, arg.as_bytes()].concat();
            assert_eq!(call.gh.unwrap().1[3].as_bytes(), expected, "{shell:?}");
        }
    }
}

#[test]
fn the_real_gh_is_looked_for_in_the_documented_order() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        let program = |machine: &Machine| machine.run(&["status"]).gh.unwrap().0;
        assert_eq!(program(&machine), machine.path("bin/gh"));
        for place in FIXED_PLACES.iter().rev() {
            let moved = machine.path(&format!("root{place}"));
            fs::create_dir_all(moved.parent().unwrap()).unwrap();
            symlink(fake_gh(), &moved).unwrap();
            assert_eq!(program(&machine), moved);
        }
    }
}

#[test]
fn without_a_gh_it_says_so_and_exits_with_127() {
    for shell in shells() {
        let empty = tempfile::tempdir().unwrap();
        for role in ["", "Qa"] {
            let machine = Machine::new(&shell)
                .set("PATH", empty.path())
                .set("MOLECULE_AGENT_ROLE", role);
            let call = machine.run_in_shell_of_this_machine(&["issue", "list"]);
            assert_eq!(call.output.status.code(), Some(127));
            let text = String::from_utf8(call.output.stderr).unwrap();
            assert_eq!(text, "gh: the GitHub CLI is not installed\n");
        }
    }
}

#[test]
fn it_never_calls_itself() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        let (first, second) = (machine.path("first"), machine.path("second"));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        symlink(machine.path("wrapper"), first.join("gh")).unwrap();
        fs::copy(machine.path("wrapper"), second.join("gh")).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(machine.path("wrapper"), executable.clone()).unwrap();
        fs::set_permissions(second.join("gh"), executable).unwrap();

        let search = format!("{}:{}", first.display(), second.display());
        let machine = machine.set("PATH", format!("{search}::"));
        let call = machine.run_in_shell_of_this_machine(&["issue", "list"]);
        assert_eq!(call.output.status.code(), Some(127));

        let bin = machine.path("bin");
        let machine = machine.set("PATH", format!("{search}:{}:/usr/bin:/bin", bin.display()));
        let call = machine.run(&["issue", "list"]);
        assert_eq!(call.gh.unwrap().0, bin.join("gh"));
    }
}

#[test]
fn assign_to_me_becomes_the_owner() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        for (args, expected) in [
            (
                "issue create --assignee @me -t x",
                "issue create --assignee alice -t x",
            ),
            (
                "issue create --assignee=@me -t x",
                "issue create --assignee=alice -t x",
            ),
            ("issue create -a @me", "issue create -a alice"),
            ("pr create -a=@me", "pr create -aalice"),
            ("issue list --assignee @me", "issue list --assignee alice"),
            (
                "search issues --assignee=@me",
                "search issues --assignee=alice",
            ),
            ("issue create --assignee bob", "issue create --assignee bob"),
            ("issue create --assignee=bob", "issue create --assignee=bob"),
            ("issue create --assignee", "issue create --assignee"),
            ("pr review -a @me", "pr review -a @me"),
            (
                "issue create --title --assignee @me",
                "issue create --title --assignee @me",
            ),
            (
                "issue create -- --assignee @me",
                "issue create -- --assignee @me",
            ),
        ] {
            let args: Vec<&str> = args.split(' ').collect();
            assert_eq!(machine.args(&args).join(" "), expected, "{shell:?}");
        }
        assert_eq!(
            machine.args(&["issue", "create", "--assignee", ""]),
            ["issue", "create", "--assignee", ""]
        );
    }
}

#[test]
fn without_an_owner_the_assignment_to_me_is_dropped() {
    for shell in shells() {
        let machine = Machine::new(&shell).set("MOLECULE_OWNER", "");
        for (args, expected) in [
            ("issue create --assignee @me -t x", "issue create -t x"),
            ("issue create --assignee=@me -t x", "issue create -t x"),
            ("issue create -a @me", "issue create"),
            ("issue create --assignee bob", "issue create --assignee bob"),
        ] {
            let args: Vec<&str> = args.split(' ').collect();
            assert_eq!(machine.args(&args).join(" "), expected, "{shell:?}");
        }
    }
}

#[test]
fn the_badge_is_put_before_the_first_body() {
    let signed = |text: &str| format!("{BADGE}\n\n{text}");
    for shell in shells() {
        let machine = Machine::new(&shell);
        for command in [
            "issue create",
            "issue comment 5",
            "issue edit 5",
            "pr create",
            "pr comment 5",
            "pr edit 5",
            "pr review 5",
            "release create v1",
            "release edit v1",
            "discussion create",
            "issue -R o/r create",
            "pr --repo=o/r comment 5",
            "issue --repo o/r create",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let got = machine.args(&[&words[..], &["--body", "a b\nc"]].concat());
            assert_eq!(
                got[words.len() + 1],
                signed("a b\nc"),
                "{shell:?} {command}"
            );
            let got = machine.args(&[&words[..], &["--body=a b"]].concat());
            assert_eq!(got[words.len()], format!("--body={}", signed("a b")));
        }
        for (given, expected) in [
            (["-b", "x"].as_slice(), vec!["-b".into(), signed("x")]),
            (&["-bx"], vec![format!("-b{}", signed("x"))]),
            (&["-b=x"], vec![format!("-b{}", signed("x"))]),
            (&["--body", ""], vec!["--body".into(), signed("")]),
            (
                &["--body", "x", "--body", "y", "-b", "z", "--body=w"],
                ["--body", &signed("x"), "--body", "y", "-b", "z", "--body=w"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            (
                &["--title", "--body", "--body", "x"],
                ["--title", "--body", "--body", &signed("x")]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            (
                &["--body", &signed("x")],
                vec!["--body".into(), signed("x")],
            ),
        ] {
            let got = machine.args(&[&["issue", "create"], given].concat());
            assert_eq!(got[2..], expected, "{shell:?}");
        }
        for (given, expected) in [
            (
                ["--notes", "x"].as_slice(),
                vec!["--notes".into(), signed("x")],
            ),
            (&["--notes=x"], vec![format!("--notes={}", signed("x"))]),
            (&["-n", "x"], vec!["-n".into(), signed("x")]),
        ] {
            let got = machine.args(&[&["release", "create", "v1"], given].concat());
            assert_eq!(got[3..], expected, "{shell:?}");
        }
    }
}

#[test]
fn no_body_is_invented_and_other_commands_are_left_alone() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        for args in [
            "issue create --title x",
            "issue create --body-file notes.md",
            "pr create -F notes.md --fill",
            "pr review 5 --approve",
            "pr review -a -c -r",
            "release create v1 --generate-notes -p",
            "issue comment 5 --body",
            "issue close 5 --comment x",
            "issue list --body x",
            "secret set NAME --body x",
            "api -b x",
            "pr merge 5 --body x",
            "issue create -t -b -t --body=x",
            "issue create -- --body x",
            "pr comment 5 --notes x",
        ] {
            let words: Vec<&str> = args.split(' ').collect();
            assert_eq!(machine.args(&words), words, "{shell:?}");
        }
        let machine = machine.set("MOLECULE_ATTRIBUTION_BADGE", "");
        let words = ["issue", "create", "--body", "x"];
        assert_eq!(machine.args(&words), words);
    }
}

#[test]
fn the_exit_code_is_gh_s_own() {
    for shell in shells() {
        for code in [0, 1, 2, 4, 126, 127, 255] {
            let machine = Machine::new(&shell).set("FAKE_RC", code.to_string());
            let call = machine.run(&["issue", "list"]);
            assert_eq!(call.output.status.code(), Some(code), "{shell:?}");
            assert!(call.output.stdout.is_empty() && call.output.stderr.is_empty());
            assert_eq!(machine.log()[0]["rc"], code);
        }
    }
}
