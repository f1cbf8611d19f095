//! The public interface, read off the compiler and compared with the committed one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::foreign;

/// Set to 1 to write `current.txt` anew.
const RENEW: &str = "MOLECULE_RENEW_API";
/// Set to 1 at a release: what is public now becomes what is promised.
const RELEASE: &str = "MOLECULE_RELEASE_API";
/// What `public-api` reads; its own check comes with an error that says less.
const FORMAT: u64 = 57;

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(name: &str) -> PathBuf {
    repository().join("molecule-hooks/api").join(name)
}

/// A listing of the interface: one line for each item, sorted.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Api {
    /// The version that this is the interface of.
    pub(crate) version: String,
    pub(crate) lines: BTreeSet<String>,
}

impl Api {
    pub(crate) fn parse(text: &str) -> Self {
        let (comments, lines): (Vec<&str>, Vec<&str>) = text
            .lines()
            .filter(|line| !line.is_empty())
            .partition(|line| line.starts_with("# "));
        let version = comments.iter().find_map(|line| {
            let rest = line.strip_prefix("# molecule-hooks ")?;
            rest.split([' ', ',']).next()
        });
        Self {
            version: version.unwrap_or_default().to_owned(),
            lines: lines.into_iter().map(str::to_owned).collect(),
        }
    }

    fn print(&self) -> String {
        let mut text = format!(
            "# molecule-hooks {}, all features: what hook crates may rely on.\n\
             # Written by tests/tests/stability; see docs/src/STABILITY.md.\n\n",
            self.version
        );
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    pub(crate) fn released() -> Self {
        Self::parse(&fs::read_to_string(file("released.txt")).unwrap_or_default())
    }

    pub(crate) fn current() -> Self {
        Self::parse(&fs::read_to_string(file("current.txt")).unwrap_or_default())
    }
}

/// The interface as the compiler sees it; nothing when its JSON cannot be read.
fn read() -> Option<Api> {
    let json = rustdoc_json();
    let text = fs::read_to_string(&json).expect("the JSON of rustdoc can be read");
    let document: Value = serde_json::from_str(&text).expect("rustdoc writes JSON");
    let format = document["format_version"].as_u64().unwrap_or_default();
    if format != FORMAT {
        eprintln!(
            "LEFT OUT: this compiler writes format {format} of rustdoc's JSON and the crate \
             public-api reads {FORMAT}: the interface of molecule-hooks is not guarded here. Take \
             the version of public-api for the newer format, and change FORMAT in this file"
        );
        return None;
    }
    let api = public_api::Builder::from_rustdoc_json(&json)
        .omit_blanket_impls(true)
        .build()
        .expect("public-api reads the format that it says it reads");
    let mut lines: BTreeSet<String> = api
        .items()
        .map(ToString::to_string)
        .filter(|line| is_worth_a_line(line))
        .map(|line| spelled_out(&line))
        .collect();
    lines.extend(obligations(&document));
    lines.extend(foreign::versions(&lines));
    let version = document["crate_version"].as_str().unwrap_or_default();
    Some(Api {
        version: version.to_owned(),
        lines,
    })
}

/// The line with the type in place of `Self`, which authors may write either way.
fn spelled_out(line: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let owner = line
        .split_once("fn molecule_hooks::")
        .and_then(|(_, rest)| {
            let path = rest.split(['(', '<']).next()?;
            Some(path.rsplit_once("::")?.0)
        });
    let Some(owner) = owner.filter(|_| line.contains("Self")) else {
        return line.to_owned();
    };
    let (mut out, mut rest) = (String::new(), line);
    while let Some(at) = rest.find("Self") {
        let (before, after) = (&rest[..at], &rest[at + 4..]);
        out.push_str(before);
        match before.ends_with(is_name) || after.starts_with(is_name) {
            true => out.push_str("Self"),
            false => out.push_str(&format!("molecule_hooks::{owner}")),
        }
        rest = after;
    }
    out + rest
}

/// What derives write, and auto traits other than the two that tell whether a value
/// may cross threads, would only hide the rest.
fn is_worth_a_line(line: &str) -> bool {
    let auto = [
        "Freeze",
        "Unpin",
        "UnsafeUnpin",
        "RefUnwindSafe",
        "UnwindSafe",
    ];
    let is_auto = auto.iter().any(|name| {
        line.contains(&format!("core::marker::{name} for"))
            || line.contains(&format!("core::panic::unwind_safe::{name} for"))
    });
    let derived = [
        "clone",
        "fmt",
        "eq",
        "hash",
        "cmp",
        "partial_cmp",
        "default",
        "zeroize",
        "drop",
        "source",
        "deserialize",
        "serialize",
    ];
    let is_derived = line.starts_with("pub fn ")
        && line.split('(').next().is_some_and(|head| {
            let name = head.rsplit("::").next().unwrap_or_default();
            let name = name.split('<').next().unwrap_or_default();
            derived.contains(&name) && !head.ends_with("FakeClock::default")
        });
    !is_auto && !is_derived && !line.contains("core::marker::StructuralPartialEq")
}

/// What an addition could break: methods that an implementation must have, and types
/// that others build or match whole.
fn obligations(document: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let index = document["index"].as_object().expect("rustdoc has an index");
    let named = |id: &Value| {
        let id = id.as_u64().map(|id| id.to_string()).unwrap_or_default();
        index.get(&id)
    };
    for item in index.values().filter(|item| item["crate_id"] == 0) {
        let name = item["name"].as_str().unwrap_or_default();
        let kept_open = item["attrs"].to_string().contains("non_exhaustive");
        let inner = &item["inner"];
        let members = |list: &Value| -> Vec<Value> {
            let ids = list.as_array().cloned().unwrap_or_default();
            ids.iter().filter_map(named).cloned().collect()
        };
        if let Some(found) = inner.get("trait") {
            for member in members(&found["items"]) {
                let inner = &member["inner"];
                let constant = inner.get("assoc_const");
                if inner["function"]["has_body"] == false
                    || constant.is_some_and(|constant| constant["value"].is_null())
                {
                    let member = member["name"].as_str().unwrap_or_default();
                    lines.push(format!("must be implemented: {name}::{member}"));
                }
            }
        } else if inner.get("enum").is_some() && item["visibility"] == "public" && !kept_open {
            lines.push(format!("matched whole: enum {name}"));
        } else if let Some(plain) = inner["struct"]["kind"].get("plain")
            && plain["has_stripped_fields"] == false
            && plain["fields"]
                .as_array()
                .is_some_and(|fields| !fields.is_empty())
            && item["visibility"] == "public"
            && !kept_open
        {
            lines.push(format!("built whole: struct {name}"));
        }
    }
    lines
}

/// Lets rustdoc write its JSON, into the folder that this test was built in.
fn rustdoc_json() -> PathBuf {
    let this = std::env::current_exe().expect("a test knows where it is");
    // <target>/<profile>/deps/<this test>
    let target = this.ancestors().nth(3).expect("a test is below target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "rustdoc",
            "--quiet",
            "-p",
            "molecule-hooks",
            "--lib",
            "--all-features",
        ])
        .arg("--target-dir")
        .arg(target)
        .args([
            "--",
            "-Z",
            "unstable-options",
            "--output-format=json",
            "--cap-lints=allow",
        ])
        .env("RUSTDOC", wrapper(target))
        .env_remove("RUSTDOCFLAGS")
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo rustdoc failed:\n{said}");
    target.join("doc/molecule_hooks.json")
}

/// A program that lets the stable rustdoc do what only a nightly one may. Setting the
/// variable for cargo would also reach build scripts, which then see another compiler:
/// everything would be built anew.
#[cfg(unix)]
fn wrapper(target: &Path) -> PathBuf {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    const SCRIPT: &str = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n";
    let path = target.join("stability/rustdoc");
    if fs::read_to_string(&path).is_ok_and(|text| text == SCRIPT) {
        return path;
    }
    let folder = target.join("stability");
    fs::create_dir_all(&folder).expect("target is writable");
    // Another test may be at the same: the file appears whole, or not at all.
    let mut file = tempfile::NamedTempFile::new_in(&folder).expect("target is writable");
    file.write_all(SCRIPT.as_bytes())
        .expect("target is writable");
    let allowed = fs::Permissions::from_mode(0o755);
    file.as_file()
        .set_permissions(allowed)
        .expect("the mode can be set");
    file.persist(&path).expect("target is writable");
    path
}

fn asked(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == "1")
}

#[test]
fn the_interface_is_the_committed_one() {
    let Some(now) = read() else { return };
    if asked(RENEW) || asked(RELEASE) {
        fs::write(file("current.txt"), now.print()).expect("the file is writable");
    }
    if asked(RELEASE) {
        fs::write(file("released.txt"), now.print()).expect("the file is writable");
    }
    let committed = Api::current();
    let gone = committed
        .lines
        .difference(&now.lines)
        .map(|line| format!("- {line}"));
    let new = now
        .lines
        .difference(&committed.lines)
        .map(|line| format!("+ {line}"));
    let mut offenders: Vec<_> = gone.chain(new).collect();
    if now.version != committed.version {
        offenders.push(format!(
            "version {} is {} now",
            committed.version, now.version
        ));
    }
    crate::assert_none(
        &offenders,
        "the public interface of molecule-hooks changed. If that is meant:\n  \
         MOLECULE_RENEW_API=1 cargo test -p molecule-tests --test stability\n\
         and say so in CHANGELOG.md: the next test tells what is missing there",
    );
}

#[test]
fn a_type_may_call_itself_self() {
    for (line, wanted) in [
        (
            "pub fn molecule_hooks::A::b(self) -> Self",
            "pub fn molecule_hooks::A::b(self) -> molecule_hooks::A",
        ),
        (
            "pub fn molecule_hooks::A::b() -> Selfish",
            "pub fn molecule_hooks::A::b() -> Selfish",
        ),
        (
            "pub struct molecule_hooks::A",
            "pub struct molecule_hooks::A",
        ),
        (
            "pub fn molecule_hooks::b(u8)",
            "pub fn molecule_hooks::b(u8)",
        ),
    ] {
        assert_eq!(spelled_out(line), wanted);
    }
}
