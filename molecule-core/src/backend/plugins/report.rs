//! What a transaction did, as the helper program or the script says it in a container,
//! or as it happened here.

use std::io;

use molecule_hooks::PluginName;

use super::transaction::{EBADMSG, ESTALE, Errno, Failed, Report, Step};
use super::{DeliveryError, InstalledPlugin};

/// The first line of whatever really ran.
const GREETING: &[u8] = b"molecule-plugins 1\n";
/// Longest line, with some room.
const MAX_LINE: usize = 1024;
/// How much of a marker is told; the helper program and the script have the same.
pub(in crate::backend) const MARKER_BYTES: usize = 4 * 1024;
const MANIFEST_BYTES: usize = 64 * 1024;

/// Room for the beginnings of a manifest and a marker.
pub(in crate::backend) fn marker_bytes() -> (Vec<u8>, Vec<u8>) {
    (vec![0; MANIFEST_BYTES], vec![0; MARKER_BYTES])
}

/// What a transaction told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::backend) struct Told {
    /// Plugins that were lost and are back.
    pub(in crate::backend) restored: Vec<PluginName>,
    /// What could not be removed or changed, and why.
    pub(in crate::backend) left: Vec<(String, Errno)>,
    /// The plugins that are there.
    pub(in crate::backend) plugins: Vec<InstalledPlugin>,
    /// Why it failed, if it said so.
    failed: Option<(Errno, Errno)>,
    done: bool,
    /// The script leaves the memory file to the server.
    memory: bool,
}

impl Told {
    /// Reads what was said. `None` when whatever said it is not ours: it did not run.
    pub(in crate::backend) fn read(said: &[u8]) -> Option<Self> {
        let mut rest = said.strip_prefix(GREETING)?;
        let mut told = Self::default();
        while let Some((line, after)) = line_of(rest) {
            rest = told.line(line, after).unwrap_or_default();
        }
        told.plugins.sort_by(|one, other| one.name.cmp(&other.name));
        Some(told)
    }

    /// Takes one line in; answers with what follows it, unless it makes no sense.
    fn line<'a>(&mut self, line: &str, after: &'a [u8]) -> Option<&'a [u8]> {
        let mut words = line.split(' ');
        match words.next()? {
            "restored" => self.restored.extend(PluginName::parse(words.next()?)),
            "left" => {
                let errno = words.next()?.parse().ok()?;
                self.left.push((words.next()?.to_owned(), errno));
            }
            "failed" => {
                self.failed = Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?));
            }
            "plugin" => {
                let (manifest, after) = content(words.next()?, MANIFEST_BYTES, after)?;
                let (marker, after) = content(words.next()?, MARKER_BYTES, after)?;
                self.plugins.extend(
                    PluginName::parse(words.next()?).map(|name| InstalledPlugin {
                        name,
                        manifest: manifest.map(<[u8]>::to_vec),
                        marker: marker.map(<[u8]>::to_vec),
                    }),
                );
                return Some(after);
            }
            "done" => self.done = true,
            "memory" => self.memory = true,
            _ => return None,
        }
        Some(after)
    }

    /// What came of it, given the code that it ended with.
    ///
    /// # Errors
    /// [`DeliveryError`] for the step that failed.
    pub(in crate::backend) fn outcome(&self, code: i64) -> Result<(), DeliveryError> {
        if code == 0 && self.done {
            return Ok(());
        }
        let (errno, rollback) = self.failed.unwrap_or_default();
        let step = [
            Step::Roots,
            Step::Verify,
            Step::Sync,
            Step::Snapshot,
            Step::Exchange,
            Step::Remove,
            Step::List,
            Step::Absent,
        ];
        let step = step.into_iter().find(|step| *step as i64 == code);
        Err(match step {
            Some(step) => error_of(Failed {
                step,
                errno,
                rollback,
            }),
            None => DeliveryError::Step {
                step: "run",
                reason: format!("it ended with code {code}"),
            },
        })
    }

    /// True when the blocks of the memory file are still to be removed.
    pub(in crate::backend) fn asks_for_memory(&self) -> bool {
        self.memory
    }

    /// Writes down what an operator should know of.
    pub(in crate::backend) fn log(&self, workspace: uuid::Uuid) {
        for plugin in &self.restored {
            tracing::warn!(
                workspace.id = %workspace, %plugin,
                "a plugin was lost in the middle of an install; the version of before is back"
            );
        }
        for (what, errno) in &self.left {
            let error = reason(*errno);
            let what: String = what.chars().filter(|c| !c.is_control()).take(300).collect();
            tracing::warn!(workspace.id = %workspace, what, error, "left over from a plugin");
        }
    }
}

impl Report for Told {
    fn restored(&mut self, plugin: &[u8]) {
        let name = std::str::from_utf8(plugin).ok().and_then(PluginName::parse);
        self.restored.extend(name);
    }

    fn left(&mut self, what: &[u8], errno: Errno) {
        self.left
            .push((String::from_utf8_lossy(what).into_owned(), errno));
    }

    fn plugin(&mut self, name: &[u8], manifest: Option<&[u8]>, marker: Option<&[u8]>) {
        let name = std::str::from_utf8(name).ok().and_then(PluginName::parse);
        self.plugins.extend(name.map(|name| InstalledPlugin {
            name,
            manifest: manifest.map(<[u8]>::to_vec),
            marker: marker.map(<[u8]>::to_vec),
        }));
    }
}

impl From<Failed> for DeliveryError {
    fn from(failed: Failed) -> Self {
        error_of(failed)
    }
}

fn error_of(failed: Failed) -> DeliveryError {
    let step = match failed.step {
        Step::Roots => "roots",
        Step::Verify => "verify",
        Step::Sync => "sync",
        Step::Snapshot => "snapshot",
        Step::Exchange => "exchange",
        Step::Remove => "remove",
        Step::List => "list",
        Step::Absent => {
            return DeliveryError::Absent {
                reason: reason(failed.errno),
                rollback: reason(failed.rollback),
            };
        }
    };
    DeliveryError::Step {
        step,
        reason: reason(failed.errno),
    }
}

fn reason(errno: Errno) -> String {
    match errno {
        // The script does not know more.
        0 => "it was refused".to_owned(),
        EBADMSG => "what is there is not what was sent".to_owned(),
        ESTALE => "something else was under its name".to_owned(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

fn line_of(rest: &[u8]) -> Option<(&str, &[u8])> {
    let end = rest.iter().take(MAX_LINE).position(|c| *c == b'\n')?;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    Some((line, &rest[end + 1..]))
}

/// As many bytes as a word says, and what follows them; none for `-`.
fn content<'a>(word: &str, most: usize, rest: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    if word == "-" {
        return Some((None, rest));
    }
    let length: usize = word.parse().ok()?;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((Some(&content[..length.min(most)]), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let said = b"molecule-plugins 1\nrestored a-b\nleft 13 x.20260101T000000Z\n\
                     plugin 4 3 demo\na: 1{}\nplugin - - b\nplugin 0 - c\nplugin - - ../x\ndone\n";
        let told = Told::read(said).unwrap();
        assert_eq!(told.restored, [PluginName::parse("a-b").unwrap()]);
        assert_eq!(told.left, [("x.20260101T000000Z".to_owned(), 13)]);
        let plugin = |name: &str, manifest: Option<&[u8]>, marker: Option<&[u8]>| InstalledPlugin {
            name: PluginName::parse(name).unwrap(),
            manifest: manifest.map(<[u8]>::to_vec),
            marker: marker.map(<[u8]>::to_vec),
        };
        let wanted = [
            plugin("b", None, None),
            plugin("c", Some(b""), None),
            plugin("demo", Some(b"a: 1"), Some(b"{}\n")),
        ];
        assert_eq!(told.plugins, wanted);
        told.outcome(0).unwrap();
        assert!(Told::read(b"OCI runtime exec failed: exec format error").is_none());
    }

    #[test]
    fn a_code_is_the_step_that_failed_and_half_an_answer_is_none() {
        let step = |said: &[u8], code| match Told::read(said).unwrap().outcome(code) {
            Err(DeliveryError::Step { step, reason }) => format!("{step}: {reason}"),
            other => format!("{other:?}"),
        };
        let said = b"molecule-plugins 1\nfailed 13 0\n";
        assert_eq!(step(said, 15), "exchange: Permission denied (os error 13)");
        assert_eq!(step(said, 10), "roots: Permission denied (os error 13)");
        let silent = b"molecule-plugins 1\n";
        assert_eq!(step(silent, 12), "verify: it was refused");
        assert_eq!(step(silent, 0), "run: it ended with code 0");
        assert_eq!(step(silent, 137), "run: it ended with code 137");
        let absent = Told::read(b"molecule-plugins 1\nfailed 28 1\n").unwrap();
        let error = absent.outcome(30).unwrap_err();
        assert!(matches!(error, DeliveryError::Absent { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn anything_said_is_survived(
            lines in prop::collection::vec(
                prop_oneof![
                    "(plugin|left|failed|restored|done) [0-9-]{0,3} [0-9-]{0,3} [a-z/.]{0,5}\n",
                    "[ -~\n]{0,20}",
                ], 0..8),
            code in any::<i64>(),
        ) {
            let said = [GREETING, lines.concat().as_bytes()].concat();
            if let Some(told) = Told::read(&said) {
                let _ = told.outcome(code);
            }
        }
    }
}
