//! Which names an archive may use, and which it used already.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::ArchiveError;
use crate::plugin_source::TreeLimits;

/// Names that were used, each with what it is. A name is known by the folder it is in
/// and by its lower case: on some systems two spellings are one file.
pub(super) struct Names {
    known: HashMap<(u32, String), Known>,
    folders: u32,
    limits: TreeLimits,
}

struct Known {
    spelling: Box<str>,
    /// The number of a folder, and whether an entry of its own named it.
    folder: Option<(u32, bool)>,
}

/// The number of the folder that is unpacked into.
const ROOT: u32 = 0;

impl Names {
    pub(super) fn new(limits: &TreeLimits) -> Self {
        Self {
            known: HashMap::new(),
            folders: ROOT,
            limits: *limits,
        }
    }

    /// Entries so far, those in between included.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes the name of a file, or of a folder.
    pub(super) fn take(&mut self, name: &str, is_folder: bool) -> Result<(), ArchiveError> {
        let parts = parts(name, &self.limits)?;
        let mut parent = ROOT;
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let folder = !last || is_folder;
            let entries = self.known.len();
            match self.known.entry((parent, part.to_lowercase())) {
                Entry::Vacant(free) => {
                    if entries >= self.limits.entries {
                        return Err(ArchiveError::TooLarge("too many entries"));
                    }
                    let number = self.folders + 1;
                    if folder {
                        self.folders = number;
                    }
                    free.insert(Known {
                        spelling: (*part).into(),
                        folder: folder.then_some((number, last)),
                    });
                    parent = number;
                }
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    if *known.spelling != **part {
                        let what = "differs from another name in case only";
                        return Err(ArchiveError::unsupported(name, what));
                    }
                    parent = match (&mut known.folder, folder, last) {
                        (Some((number, _)), true, false) => *number,
                        (Some((number, named @ false)), true, true) => {
                            *named = true;
                            *number
                        }
                        _ => return Err(ArchiveError::unsupported(name, "is there twice")),
                    };
                }
            }
        }
        Ok(())
    }
}

/// The name of an entry without what means nothing: `./` before it, `/` behind it. Empty
/// for the folder itself.
pub(super) fn clean(name: &[u8]) -> Result<&str, ArchiveError> {
    let lossy = || String::from_utf8_lossy(name).into_owned();
    let text = std::str::from_utf8(name)
        .map_err(|_| ArchiveError::unsupported(&lossy(), "has a name that is not UTF-8"))?;
    let odd = |what| Err(ArchiveError::unsupported(text, what));
    if text.is_empty() {
        return odd("has no name");
    }
    if text.chars().any(char::is_control) {
        return odd("has control characters in its name");
    }
    if text.contains('\\') {
        return odd("has a backslash in its name");
    }
    if text.starts_with('/') {
        return odd("has an absolute name");
    }
    if matches!(text, "." | "./") {
        return Ok("");
    }
    let text = text.strip_prefix("./").unwrap_or(text);
    Ok(text.strip_suffix('/').unwrap_or(text))
}

/// The parts of a clean name.
fn parts<'a>(name: &'a str, limits: &TreeLimits) -> Result<Vec<&'a str>, ArchiveError> {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > limits.depth.saturating_add(1) {
        return Err(ArchiveError::TooLarge("folders nested too deeply"));
    }
    for part in &parts {
        if matches!(*part, "" | "." | "..") {
            let what = "has a name that leads elsewhere";
            return Err(ArchiveError::unsupported(name, what));
        }
        if part.len() > limits.name_bytes {
            return Err(ArchiveError::TooLarge("a name that is too long"));
        }
    }
    Ok(parts)
}
