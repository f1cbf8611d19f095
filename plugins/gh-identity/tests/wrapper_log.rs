//! The `gh` wrapper, run by every shell of this machine: its log.

#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod machine;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use machine::{BADGE, Machine, nasty, shells};
use serde_json::json;

#[test]
fn every_call_is_one_valid_json_line() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        machine.run(&["issue", "create", "--assignee", "@me", "--body", "hi"]);
        machine.run::<&str>(&[]);
        machine.run(&nasty());

        let log = machine.log();

        let ts = log[0]["ts"].as_str().unwrap();
        assert!(ts.len() == 20 && ts.ends_with('Z'), "{ts}");
        let mut first = log[0].clone();
        first.as_object_mut().unwrap().remove("ts");
        let body = format!("{BADGE}\n\nhi");
        assert_eq!(
            first,
            json!({
                "role": "Qa", "workspace_id": "7aa08951-00d0", "owner": "alice", "rc": 0,
                "argv": ["issue", "create", "--assignee", "alice", "--body", body],
            })
        );
        assert_eq!(log[1]["argv"], json!([]));
        let shown: Vec<String> = nasty()
            .iter()
            .map(|arg| String::from_utf8_lossy(arg.as_bytes()).into_owned())
            .collect();
        let argv = log[2]["argv"].as_array().unwrap();
        let last = shown.len() - 1;
        assert_eq!(argv[..last], shown[..last], "{shell:?}");
        // The one with every byte is long in JSON, and so is cut.
        let logged = argv[last].as_str().unwrap().strip_suffix('…').unwrap();
        assert!(logged.len() > 200 && shown[last].starts_with(logged));
    }
}

#[test]
fn broken_text_becomes_replacement_characters_in_the_log() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        let args = [
            b"\xff".as_slice(),
            b"a\xc3",
            b"\xc3(",
            b"\xe2\x82",
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"ok",
        ]
        .map(OsStr::from_bytes);
        machine.run(&args);
        let argv = machine.log()[0]["argv"].clone();
        for (at, shown) in argv.as_array().unwrap().iter().enumerate().take(7) {
            assert!(
                shown.as_str().unwrap().contains('\u{fffd}'),
                "{at}: {shown}"
            );
        }
        assert_eq!(argv[2], "\u{fffd}(");
        assert_eq!(argv[7], "ok");
    }
}

#[test]
fn long_arguments_are_cut_in_the_log_only() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        let long = "🤖".repeat(20_000);
        let got = machine.args(&["issue", "create", "--body", &long]);
        assert!(got[3].ends_with(&long));
        let many: Vec<String> = (0..500)
            .map(|n| format!("{n}-{}", "x".repeat(50)))
            .collect();
        machine.run(&many);
        for line in fs::read_to_string(machine.path("log")).unwrap().lines() {
            assert!(line.len() < 8192, "{}", line.len());
        }
        let log = machine.log();
        assert!(log[0]["argv"][3].as_str().unwrap().ends_with('…'));
        assert_eq!(log[1]["argv"].as_array().unwrap().last().unwrap(), "…");
    }
}

#[test]
fn calls_at_the_same_time_do_not_mix_their_lines() {
    let machine = Machine::new(&["sh"]);
    let body = "y".repeat(3000);
    let calls: Vec<_> = (0..12)
        .map(|n| {
            let number = n.to_string();
            let args = [
                "pr", "comment", &number, "--body", &body, "-R", &body, &body,
            ];
            let mut command = machine.command(&args);
            command.stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut call in calls {
        call.wait().unwrap();
    }
    assert_eq!(machine.log().len(), 12);
}

#[test]
fn credentials_stay_out_of_the_log() {
    for shell in shells() {
        let machine = Machine::new(&shell);
        for args in [
            ["secret", "set", "NAME", "--body", "PLANTED"].as_slice(),
            &["secret", "set", "NAME", "--body=PLANTED"],
            &["secret", "set", "NAME", "-b", "PLANTED"],
            &["secret", "set", "NAME", "-bPLANTED"],
            &["api", "/user", "-H", "authorization: token PLANTED"],
            &["api", "/user", "-H", "Authorization: bearer PLANTED"],
            &["issue", "create", "--body", "x ghs_PLANTED123, y"],
            &["issue", "create", "--body", "x\nghp_PLANTED123\ny"],
            &["x", "github_pat_11PLANTED_99"],
        ] {
            let got = machine.args(args);
            assert!(got.concat().contains("PLANTED"), "gh gets the real value");
        }
        let text = fs::read_to_string(machine.path("log")).unwrap();
        assert!(!text.contains("PLANTED"), "{text}");
        assert_eq!(machine.log().len(), 9);
    }
}

#[test]
fn a_log_that_cannot_be_written_never_breaks_the_command() {
    for shell in shells() {
        let machine = Machine::new(&shell).set("FAKE_RC", "3");
        let fifo = machine.path("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let places = [
            machine.path("bin"),
            machine.path("no/such/directory/log"),
            PathBuf::from("/dev/full"),
            fifo,
        ];
        let mut machine = machine;
        for place in places {
            machine = machine.set("MOLECULE_GH_LOG", place.clone());
            let call = machine.run(&["issue", "list"]);
            assert_eq!(call.output.status.code(), Some(3), "{shell:?} {place:?}");
            assert!(call.gh.is_some());
            assert!(call.output.stderr.is_empty(), "{:?}", call.output);
        }
    }
}

#[test]
fn without_the_tools_for_the_log_the_command_still_runs() {
    let machine = Machine::new(&["sh"]);
    let tools = machine.path("tools");
    fs::create_dir(&tools).unwrap();
    symlink("/bin/cat", tools.join("cat")).unwrap();
    let search = format!("{}:{}", machine.path("bin").display(), tools.display());
    let machine = machine.set("PATH", search);
    let call = machine.run_in_shell_of_this_machine(&["issue", "list"]);
    assert_eq!(call.output.status.code(), Some(0));
    assert!(call.output.stderr.is_empty(), "{:?}", call.output);
    assert!(machine.path("call").exists());
}
