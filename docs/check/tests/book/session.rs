//! Runs the commands of a page, in order, in one shell and one empty folder.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::page::{Block, Page};
use crate::repository;

/// Long enough for a busy machine; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(240);
/// The binaries that pages call: their own server, and an agent.
const BINARIES: [&str; 2] = ["custom-server", "echo-agent"];
/// The packages they are in.
const PACKAGES: [&str; 2] = ["custom-server", "molecule-echo-agent"];

/// What a block asks for, by the comment before it.
#[derive(Debug, PartialEq)]
pub(crate) enum Ask {
    /// `<!-- example: why it is not run -->`
    Example(String),
    /// `<!-- file: path -->`: the block is what that file holds.
    File(String),
    /// `<!-- prints -->`: the block is what the one before printed, at least.
    Prints,
    /// `<!-- exits: 78 -->`
    Exits(i32),
    /// Nothing said: a command must work.
    Works,
}

impl Ask {
    pub(crate) fn of(block: &Block) -> Result<Self, String> {
        let note = block.note.as_str();
        let (word, rest) = note.split_once(':').unwrap_or((note, ""));
        let rest = rest.trim().to_owned();
        match (word, rest.is_empty()) {
            ("example", false) => Ok(Self::Example(rest)),
            ("example", true) => Err("says not why it is an example".to_owned()),
            ("file", false) => Ok(Self::File(rest)),
            ("prints", true) => Ok(Self::Prints),
            ("exits", _) => rest
                .parse()
                .map(Self::Exits)
                .map_err(|_| format!("exits with {rest:?}")),
            _ => Ok(Self::Works),
        }
    }
}

/// A step of a session, and the line of its block.
struct Step {
    line: usize,
    code: i32,
    script: PathBuf,
    output: PathBuf,
}

/// Ends everything that a session started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill")
            .args(["-9", "--", &group])
            .stderr(Stdio::null())
            .status();
        let _ = self.0.wait();
    }
}

/// Runs what is to be run on a page and fails with the first thing that is not as the
/// page says.
pub(crate) fn run(path: &str) {
    let page = Page::all().into_iter().find(|page| page.path == path);
    let page = page.unwrap_or_else(|| panic!("the book has no page {path}"));
    let needs = needs(&page.text);
    // What scripts/test installs; elsewhere it may be missing.
    let programs = needs.iter().copied().filter(|need| *need != "postgres");
    if !programs.chain(["curl"]).all(is_installed) {
        return;
    }
    let databases = match needs.contains(&"postgres") {
        true => match Databases::create() {
            Some(databases) => Some(databases),
            None => return,
        },
        false => None,
    };
    let room = tempfile::tempdir().expect("a temporary folder");
    let work = room.path().join("work");
    fs::create_dir(&work).expect("it is empty");
    let (steps, expected, main) = script(&page, room.path(), &work);
    let file = room.path().join("main.sh");
    fs::write(&file, main).expect("it is writable");
    let mut command = command(&room, &work, &file);
    if let Some(databases) = &databases {
        command
            .env("DATABASE_URL", databases.url(0))
            .env("RESTORE_URL", databases.url(1));
    }
    let mut group = Group(command.spawn().expect("bash runs"));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = group.0.try_wait().expect("the shell can be waited for") {
            break Some(status);
        }
        if started.elapsed() > DEADLINE {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    drop(group);
    if !status.is_some_and(|status| status.success()) {
        let last = steps.iter().rev().find(|step| step.output.exists());
        let (line, said) = match last {
            Some(step) => (
                step.line,
                fs::read_to_string(&step.output).unwrap_or_default(),
            ),
            None => (0, String::new()),
        };
        let why = status.map_or("did not end".to_owned(), |status| status.to_string());
        panic!(
            "docs/src/{path}, block at line {line} ({why}), printed:\n{said}\n{}",
            logs(&work)
        );
    }
    for (at, block) in expected {
        let said = fs::read_to_string(&steps[at].output).unwrap_or_default();
        if let Err(missing) = has_lines(&said, &block.text) {
            panic!(
                "docs/src/{path}, block at line {}: nothing printed {missing:?}; it printed:\n{said}",
                block.line
            );
        }
    }
}

/// What `<!-- needs: … -->` says on a page: `postgres`, or a program.
fn needs(text: &str) -> Vec<&str> {
    let parts = text.split("<!-- needs: ").skip(1);
    parts
        .filter_map(|part| Some(part.split_once(" -->")?.0))
        .collect()
}

/// Whether a program is there; says so if it is not.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("LEFT OUT: {program} is not installed");
    }
    found
}

/// The steps of a page, what some of them print, and the script that runs them.
fn script(page: &Page, room: &Path, work: &Path) -> (Vec<Step>, Vec<(usize, Block)>, String) {
    let mut main = String::from(
        "set -euo pipefail\ntrap 'jobs -p | xargs -r kill 2>/dev/null; wait' EXIT\ncd \"$WORK\"\n",
    );
    let (mut steps, mut expected) = (Vec::<Step>::new(), Vec::new());
    for block in page.blocks() {
        let ask =
            Ask::of(&block).unwrap_or_else(|why| panic!("{}:{}: {why}", page.path, block.line));
        match (ask, block.language.as_str()) {
            (Ask::File(name), _) => {
                assert!(
                    !name.starts_with('/') && !name.contains(".."),
                    "{name} is not below the folder"
                );
                let source = room.join(format!("{}.file", block.line));
                fs::write(&source, &block.text).expect("it is writable");
                let target = work.join(name);
                main.push_str(&format!(
                    "install -D -m 0644 '{}' '{}'\n",
                    source.display(),
                    target.display()
                ));
            }
            (Ask::Prints, _) => {
                assert!(
                    !steps.is_empty(),
                    "{}:{}: nothing ran before",
                    page.path,
                    block.line
                );
                expected.push((steps.len() - 1, block));
            }
            (Ask::Exits(_) | Ask::Works, "sh") => {
                let code = match Ask::of(&block) {
                    Ok(Ask::Exits(code)) => code,
                    _ => 0,
                };
                let step = Step {
                    line: block.line,
                    code,
                    script: room.join(format!("{}.sh", block.line)),
                    output: room.join(format!("{}.out", block.line)),
                };
                fs::write(&step.script, &block.text).expect("it is writable");
                main.push_str(&call(&step));
                steps.push(step);
            }
            _ => {}
        }
    }
    (steps, expected, main)
}

fn call(step: &Step) -> String {
    let (script, output) = (step.script.display(), step.output.display());
    match step.code {
        // In this very shell, for what it sets is used further down.
        0 => format!(". '{script}' >'{output}' 2>&1\n"),
        wanted => format!(
            "code=0\n( . '{script}' ) >'{output}' 2>&1 || code=$?\n\
             [ \"$code\" = {wanted} ] || {{ echo \"exit code $code instead of {wanted}\" >>'{output}'; exit 1; }}\n"
        ),
    }
}

fn command(room: &TempDir, work: &Path, file: &Path) -> Command {
    let bin = room.path().join("bin");
    fs::create_dir(&bin).expect("it is empty");
    for (name, binary) in [("myserver", BINARIES[0]), ("echo-agent", BINARIES[1])] {
        std::os::unix::fs::symlink(binaries().join(binary), bin.join(name))
            .expect("it is writable");
    }
    let system = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .arg(file)
        .env_clear()
        .env("PATH", format!("{}:{system}", bin.display()))
        .env("HOME", work)
        .env("TMPDIR", room.path())
        .env("WORK", work)
        .env("LANG", "C.UTF-8")
        .env("PORT", free_port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// A port that nobody has, outside of those that the system hands out by itself, so
/// that nobody gets it before the server does.
fn free_port() -> u16 {
    let start = std::process::id() % 9000;
    let mut tried = (0..9000).map(|step| 10_000 + ((start + step * 37) % 9000) as u16);
    let free = tried.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a port is free")
}

/// What servers of the page wrote into files, for the reader of a failure.
fn logs(work: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(work).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(&path).unwrap_or_default();
            text.push_str(&format!(
                "-- {}\n{log}",
                entry.file_name().to_string_lossy()
            ));
        }
    }
    text
}

/// Whether the lines of `wanted` are in `said`, in their order; `…` is anything.
fn has_lines(said: &str, wanted: &str) -> Result<(), String> {
    let mut said = said.lines();
    for line in wanted
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
    {
        if line == "…" {
            continue;
        }
        if !said.any(|said| is_line(said.trim_end(), line)) {
            return Err(line.to_owned());
        }
    }
    Ok(())
}

fn is_line(said: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = said.strip_prefix(first) else {
        return false;
    };
    let mut last = first;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty() || (last.is_empty() && wanted.ends_with('…'))
}

/// The folder with the binaries, as fresh as their sources.
fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build)
}

fn build() -> PathBuf {
    let this = std::env::current_exe().expect("a test knows where it is");
    // <target>/<profile>/deps/<this test>
    let profile = this
        .ancestors()
        .nth(2)
        .expect("a test is below target")
        .to_owned();
    let are_there = || BINARIES.iter().all(|name| profile.join(name).is_file());
    // Said by scripts/test, which has just built everything.
    let built = std::env::var("MOLECULE_TEST_EXAMPLES_BUILT").is_ok_and(|value| value == "1");
    if built && are_there() {
        return profile;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet"])
        .args(PACKAGES.iter().flat_map(|name| ["-p", name]))
        .arg("--target-dir")
        .arg(profile.parent().expect("a profile is below target"))
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && are_there(),
        "the binaries do not build:\n{said}"
    );
    profile
}

/// Two empty databases on the PostgreSQL of the tests, gone when this is.
struct Databases {
    server: String,
    names: [String; 2],
}

impl Databases {
    /// Nothing, and a word about it, where there is no PostgreSQL or no client for it.
    fn create() -> Option<Self> {
        let Ok(server) = std::env::var("MOLECULE_TEST_POSTGRES_URL") else {
            eprintln!("LEFT OUT: MOLECULE_TEST_POSTGRES_URL is not set");
            return None;
        };
        if !["psql", "pg_dump", "pg_restore"]
            .into_iter()
            .all(is_installed)
        {
            return None;
        }
        let base = format!("molecule_book_{}", std::process::id());
        let databases = Self {
            server,
            names: [format!("{base}_a"), format!("{base}_b")],
        };
        for name in &databases.names {
            databases.tell(&format!("CREATE DATABASE {name}"));
        }
        Some(databases)
    }

    fn tell(&self, statement: &str) {
        let status = Command::new("psql")
            .args([
                "--quiet",
                "--no-psqlrc",
                "--command",
                statement,
                &self.server,
            ])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{statement} failed"
        );
    }

    fn url(&self, which: usize) -> String {
        let (server, query) = match self.server.split_once('?') {
            Some((server, query)) => (server, format!("?{query}")),
            None => (self.server.as_str(), String::new()),
        };
        let scheme = server.find("://").map_or(0, |at| at + 3);
        let end = server[scheme..]
            .find('/')
            .map_or(server.len(), |at| scheme + at);
        format!("{}/{}{query}", &server[..end], self.names[which])
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        for name in self.names.clone() {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let _ = Command::new("psql")
                .args(["--quiet", "--no-psqlrc", "--command", &drop, &self.server])
                .status();
        }
    }
}

#[test]
fn output_is_compared_line_by_line() {
    let said = "one\ntwo 2 and 3\nthree\n";
    for good in ["one\nthree\n", "two … and …\n", "…\nthree", "tw…3", ""] {
        assert_eq!(has_lines(said, good), Ok(()), "{good:?}");
    }
    for bad in ["three\none", "two …x", "wo 2 and 3", "two 2", "four"] {
        assert!(has_lines(said, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn pages_say_what_they_need() {
    let text = "a\n<!-- needs: postgres -->\nb <!-- needs: sqlite3 -->\n";
    assert_eq!(needs(text), ["postgres", "sqlite3"]);
    assert!(is_installed("bash") && !is_installed("no-such-program-of-ours"));
}

#[test]
fn comments_say_what_to_do_with_a_block() {
    let ask = |note: &str| {
        Ask::of(&Block {
            language: "sh".to_owned(),
            text: String::new(),
            line: 1,
            note: note.to_owned(),
        })
    };
    assert_eq!(
        ask("example: needs a registry"),
        Ok(Ask::Example("needs a registry".to_owned()))
    );
    assert!(ask("example").is_err() && ask("example:").is_err() && ask("exits: no").is_err());
    assert_eq!(ask("file: a/b"), Ok(Ask::File("a/b".to_owned())));
    assert_eq!(ask("prints"), Ok(Ask::Prints));
    assert_eq!(ask("exits: 78"), Ok(Ask::Exits(78)));
    assert_eq!(ask("begin texts"), Ok(Ask::Works));
}
