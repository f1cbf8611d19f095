//! A machine with the `gh` wrapper in front of a fake gh.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) const SCRIPT: &str = include_str!("../../src/gh-wrapper.sh");
pub(crate) const BADGE: &str = "🤖 [Agent: Qa · ws-7aa08951]";
pub(crate) const FIXED_PLACES: [&str; 3] =
    ["/usr/bin/gh", "/opt/gh/bin/gh", "/usr/local/bin/gh.real"];

pub(crate) fn fake_gh() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fake-gh")
}

/// Those of the usual shells that are installed; `sh` always is.
pub(crate) fn shells() -> Vec<Vec<&'static str>> {
    let all = [
        vec!["sh"],
        vec!["dash"],
        vec!["bash"],
        vec!["busybox", "sh"],
    ];
    all.into_iter()
        .filter(|shell| {
            let mut probe = Command::new(shell[0]);
            probe.args(&shell[1..]).args(["-c", ":"]);
            probe.output().is_ok_and(|output| output.status.success())
        })
        .collect()
}

/// A machine with the wrapper, and the fake gh on its `PATH`.
pub(crate) struct Machine {
    pub(crate) root: tempfile::TempDir,
    pub(crate) shell: Vec<&'static str>,
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// What came of one call.
pub(crate) struct Call {
    pub(crate) output: Output,
    /// Path that gh was started by and its arguments; none if it was not started.
    pub(crate) gh: Option<(PathBuf, Vec<OsString>)>,
    pub(crate) stdin: Vec<u8>,
}

impl Machine {
    /// An agent with a role and an owner.
    pub(crate) fn new(shell: &[&'static str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let mut script = SCRIPT.to_owned();
        for place in FIXED_PLACES {
            assert!(script.contains(place));
            // The places of this machine, moved under our root.
            let moved = format!("{}/root{}", root.path().display(), place);
            script = script.replace(&format!(" {place}"), &format!(" {moved}"));
        }
        fs::write(path("wrapper"), script).unwrap();
        fs::create_dir(path("bin")).unwrap();
        symlink(fake_gh(), path("bin/gh")).unwrap();
        let search = format!("{}:/usr/bin:/bin", path("bin").display());
        let env = vec![
            ("PATH", search.into()),
            ("FAKE_OUT", path("call").into()),
            ("MOLECULE_GH_LOG", path("log").into()),
            ("MOLECULE_AGENT_ROLE", "Qa".into()),
            ("MOLECULE_OWNER", "alice".into()),
            ("MOLECULE_WORKSPACE_ID", "7aa08951-00d0".into()),
            ("MOLECULE_ATTRIBUTION_BADGE", BADGE.into()),
        ];
        Self {
            root,
            shell: shell.to_vec(),
            env,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(self.shell[0]);
        command
            .args(&self.shell[1..])
            .arg(self.path("wrapper"))
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Call {
        let _ = fs::remove_file(self.path("call"));
        let mut child = self.command(args).spawn().unwrap();
        // A gh that was never started does not read.
        let _ = child.stdin.take().unwrap().write_all(b"from stdin");
        let output = child.wait_with_output().unwrap();
        let gh = fs::read(self.path("call")).ok().map(|bytes| {
            let mut parts = bytes.split(|b| *b == 0).map(<[u8]>::to_vec);
            let program = OsString::from_vec(parts.next().unwrap());
            let count: usize = String::from_utf8(parts.next().unwrap())
                .unwrap()
                .parse()
                .unwrap();
            let args: Vec<_> = parts.map(OsString::from_vec).collect();
            assert_eq!(args.len(), count);
            (program.into(), args)
        });
        Call {
            output,
            gh,
            stdin: fs::read(self.path("call.stdin")).unwrap_or_default(),
        }
    }

    /// The arguments that gh got.
    pub(crate) fn args(&self, args: &[&str]) -> Vec<String> {
        let call = self.run(args);
        assert!(call.output.status.success(), "{:?}", call.output);
        let (_, got) = call.gh.expect("gh was started");
        got.into_iter().map(|s| s.into_string().unwrap()).collect()
    }

    pub(crate) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// Arguments that break careless scripts.
pub(crate) fn nasty() -> Vec<OsString> {
    let every_byte: Vec<u8> = (1..=255).collect();
    let mut args: Vec<OsString> = [
        "",
        " ",
        "  two  words ",
        "a\nb",
        "\n",
        "ends\n\n",
        "'",
        "\"",
        "\\",
        "\\n",
        "$HOME",
        "`id`",
        "$(id)",
        "*",
        "?",
        "[a-z]",
        "~",
        "-",
        "-e",
        "%s%n",
        "!",
        "#",
        ";",
        "&",
        "|",
        "{}",
        "é🤖日本",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    args.push(OsString::from_vec(every_byte));
    args
}

impl Machine {
    /// As `run`, for a `PATH` on which the shell itself is not found.
    pub(crate) fn run_in_shell_of_this_machine(&self, args: &[&str]) -> Call {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|directory| directory.join(self.shell[0]))
            .find(|path| path.exists())
            .unwrap();
        let mut command = Command::new(found);
        let output = command
            .args(&self.shell[1..])
            .arg(self.path("wrapper"))
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Call {
            output,
            gh: None,
            stdin: Vec::new(),
        }
    }
}
