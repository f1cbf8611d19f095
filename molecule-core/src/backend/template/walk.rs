//! Going through a template, folder by folder.
//!
//! Every folder and file is opened below the folder that was opened before, and
//! never through a link. So whoever swaps a folder for a link meanwhile gets an
//! error, and never a look at what lies elsewhere.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{MAX_DEPTH, MAX_ENTRIES, MAX_TOTAL_BYTES, TemplateError, TemplateSource};

/// Gets what a template holds, folders before what they contain, in the order of
/// their names.
pub(in crate::backend) trait Receiver {
    /// Why it cannot go on.
    type Error: From<TemplateError>;
    /// A folder, named relative to the template with `/`.
    fn folder(&mut self, name: &str) -> Result<(), Self::Error>;
    /// A regular file.
    fn file(&mut self, file: TemplateFile<'_>) -> Result<(), Self::Error>;
}

/// A regular file of a template, not opened yet.
pub(in crate::backend) struct TemplateFile<'a> {
    /// Name relative to the template, with `/`.
    pub(in crate::backend) name: &'a str,
    folder: BorrowedFd<'a>,
    entry: &'a CStr,
    bytes: u64,
}

impl TemplateFile<'_> {
    /// Opens it, if it still is a regular file.
    pub(in crate::backend) fn open(&self) -> Result<TemplateSource, TemplateError> {
        // Whatever took the place of the file must not hold up who opens it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(self.folder, self.entry, flags, Mode::empty())
            .map_err(|error| replaced(self.name, error))?;
        TemplateSource::new(self.name, File::from(file))
    }
}

/// An open template folder.
pub(in crate::backend) struct Template {
    root: OwnedFd,
}

impl Template {
    /// Opens a template, which may itself be a link. With `within`, it has to lie in
    /// that folder once all links are resolved.
    pub(in crate::backend) fn open(
        folder: &Path,
        within: Option<&Path>,
    ) -> Result<Self, TemplateError> {
        let failed = |error: io::Error| TemplateError::Root(error.kind());
        let folder = folder.canonicalize().map_err(failed)?;
        let Some(within) = within else {
            let root = open_folder(CWD, &folder).map_err(|error| failed(error.into()))?;
            return Ok(Self { root });
        };
        let within = within.canonicalize().map_err(failed)?;
        let below = match folder.strip_prefix(&within) {
            Ok(below) if below.components().next().is_some() => below,
            _ => return Err(TemplateError::Outside),
        };
        // No part of either path was a link a moment ago; opened one by one without
        // following any, no part can be one now.
        let mut root = open_folder(CWD, &within).map_err(|error| failed(error.into()))?;
        for part in below.components() {
            root = open_folder(root.as_fd(), part.as_os_str())
                .map_err(|error| failed(error.into()))?;
        }
        Ok(Self { root })
    }

    /// How many bytes there are. Opens no file.
    ///
    /// # Errors
    /// [`TemplateError::TooLarge`] among others: better now than half-way.
    pub(in crate::backend) fn measure(&self) -> Result<u64, TemplateError> {
        let mut sum = Sum(0);
        self.deliver(&mut sum)?;
        Ok(sum.0)
    }

    /// Goes through the template. Links and special files are left out.
    pub(in crate::backend) fn deliver<R: Receiver>(&self, to: &mut R) -> Result<(), R::Error> {
        let mut walk = Walk {
            to,
            entries: 0,
            bytes: 0,
        };
        walk.folder(self.root.as_fd(), "", 0)
    }
}

/// Adds up.
struct Sum(u64);

impl Receiver for Sum {
    type Error = TemplateError;

    fn folder(&mut self, _: &str) -> Result<(), TemplateError> {
        Ok(())
    }

    fn file(&mut self, file: TemplateFile<'_>) -> Result<(), TemplateError> {
        self.0 += file.bytes;
        Ok(())
    }
}

struct Walk<'a, R> {
    to: &'a mut R,
    entries: usize,
    bytes: u64,
}

impl<R: Receiver> Walk<'_, R> {
    fn folder(
        &mut self,
        folder: BorrowedFd<'_>,
        prefix: &str,
        depth: usize,
    ) -> Result<(), R::Error> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::TooLarge("folders nested too deeply").into());
        }
        for entry in entries_of(folder, prefix)? {
            let Ok(own_name) = entry.to_str() else {
                tracing::warn!(
                    folder = prefix,
                    "template entry skipped: its name is not UTF-8"
                );
                continue;
            };
            let name = match prefix {
                "" => own_name.to_owned(),
                parent => format!("{parent}/{own_name}"),
            };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TemplateError::TooLarge("too many files").into());
            }
            self.entry(folder, &entry, &name, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        entry: &CStr,
        name: &str,
        depth: usize,
    ) -> Result<(), R::Error> {
        let found = statat(folder, entry, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| replaced(name, error))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let inner = open_folder(folder, entry).map_err(|error| replaced(name, error))?;
                self.to.folder(name)?;
                self.folder(inner.as_fd(), name, depth + 1)
            }
            FileType::RegularFile => {
                let bytes = u64::try_from(found.st_size).unwrap_or_default();
                self.bytes = self.bytes.saturating_add(bytes);
                if self.bytes > MAX_TOTAL_BYTES {
                    return Err(TemplateError::TooLarge("too many bytes").into());
                }
                self.to.file(TemplateFile {
                    name,
                    folder,
                    entry,
                    bytes,
                })
            }
            _ => {
                tracing::debug!(name, "template entry skipped: neither file nor folder");
                Ok(())
            }
        }
    }
}

fn open_folder(below: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(below, name, flags, Mode::empty())
}

/// The names in a folder, sorted.
fn entries_of(folder: BorrowedFd<'_>, prefix: &str) -> Result<Vec<CString>, TemplateError> {
    let failed = |error: Errno| {
        let kind = io::Error::from(error).kind();
        match prefix {
            "" => TemplateError::Root(kind),
            name => TemplateError::Read(name.to_owned(), kind),
        }
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if names.len() >= MAX_ENTRIES {
            return Err(TemplateError::TooLarge("too many files"));
        }
        names.push(name.to_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The error for an entry that could not be opened after it was seen.
fn replaced(name: &str, error: Errno) -> TemplateError {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::NOENT => TemplateError::Changed(name.to_owned()),
        other => TemplateError::Read(name.to_owned(), io::Error::from(other).kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    type Act = Box<dyn Fn(&str)>;

    /// Writes down what comes, and swaps a folder for a link when it is told of it.
    #[derive(Default)]
    struct Seen {
        names: Vec<String>,
        on_folder: Option<Act>,
        on_file: Option<Act>,
        content: Vec<u8>,
    }

    impl Receiver for Seen {
        type Error = TemplateError;

        fn folder(&mut self, name: &str) -> Result<(), TemplateError> {
            self.names.push(format!("{name}/"));
            if let Some(act) = &self.on_folder {
                act(name);
            }
            Ok(())
        }

        fn file(&mut self, file: TemplateFile<'_>) -> Result<(), TemplateError> {
            if let Some(act) = &self.on_file {
                act(file.name);
            }
            let mut source = file.open()?;
            while source.read(&mut self.content)? {}
            self.names.push(file.name.to_owned());
            Ok(())
        }
    }

    /// `templates/one` with a few files, and `outside/secret`.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("templates/one");
        fs::create_dir_all(root.join("b/deep")).unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        fs::write(base.path().join("outside/secret"), "secret").unwrap();
        fs::write(root.join("a"), "a").unwrap();
        fs::write(root.join("b/deep/x"), "x").unwrap();
        fs::write(root.join("c"), "c").unwrap();
        (base, root)
    }

    fn names(root: &Path, within: Option<&Path>) -> Result<Vec<String>, TemplateError> {
        let mut seen = Seen::default();
        Template::open(root, within)?.deliver(&mut seen)?;
        Ok(seen.names)
    }

    #[test]
    fn folders_come_before_what_they_hold_and_links_do_not_come() {
        let (base, root) = tree();
        symlink("../../outside", root.join("b/link")).unwrap();
        symlink("../../outside/secret", root.join("link")).unwrap();
        symlink(".", root.join("loop")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        rustix::fs::mkfifoat(CWD, root.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        let wanted = ["a", "b/", "b/deep/", "b/deep/x", "c"];
        assert_eq!(names(&root, None).unwrap(), wanted);
        assert_eq!(Template::open(&root, None).unwrap().measure().unwrap(), 3);

        // Also when the template itself is a link
        let link = base.path().join("templates/two");
        symlink(&root, &link).unwrap();
        let templates = base.path().join("templates");
        assert_eq!(names(&link, Some(&templates)).unwrap(), wanted);
    }

    #[test]
    fn a_template_must_lie_in_its_folder_once_links_are_resolved() {
        let (base, root) = tree();
        let templates = base.path().join("templates");
        symlink("../outside", templates.join("out")).unwrap();
        symlink(".", templates.join("all")).unwrap();
        fs::create_dir(base.path().join("templates-2")).unwrap();
        for bad in [
            templates.join("out"),
            templates.join("all"),
            templates.join(".."),
            root.join("../../outside"),
            base.path().join("templates-2"),
            base.path().join("outside"),
        ] {
            let error = names(&bad, Some(&templates)).unwrap_err();
            assert!(matches!(error, TemplateError::Outside), "{bad:?}: {error}");
        }
        for missing in [templates.join("none"), root.join("a")] {
            let error = names(&missing, Some(&templates)).unwrap_err();
            assert!(matches!(error, TemplateError::Root(_)), "{error}");
        }
        // The folder of templates may be reached through a link
        let link = base.path().join("link");
        symlink(&templates, &link).unwrap();
        assert_eq!(names(&root, Some(&link)).unwrap().len(), 5);
    }

    #[test]
    fn a_folder_or_file_swapped_for_a_link_is_never_followed() {
        let swap = |path: PathBuf, target: &'static str| {
            if path.is_dir() {
                fs::rename(&path, path.with_extension("away")).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            symlink(target, path).unwrap();
        };
        // The next folder
        let (_base, root) = tree();
        let inner = root.clone();
        let mut seen = Seen {
            on_file: Some(Box::new(move |name| {
                if name == "a" {
                    swap(inner.join("b"), "../../outside");
                }
            })),
            ..Seen::default()
        };
        Template::open(&root, None)
            .unwrap()
            .deliver(&mut seen)
            .unwrap();
        assert_eq!(seen.names, ["a", "c"]);

        // The folder that is being read: what was opened is read on
        let (_base, root) = tree();
        let inner = root.clone();
        let mut seen = Seen {
            on_folder: Some(Box::new(move |name| {
                if name == "b/deep" {
                    swap(inner.join("b"), "../../outside");
                }
            })),
            ..Seen::default()
        };
        Template::open(&root, None)
            .unwrap()
            .deliver(&mut seen)
            .unwrap();
        assert!(!String::from_utf8(seen.content).unwrap().contains("secret"));

        // The file that is about to be opened
        let (_base, root) = tree();
        let inner = root.clone();
        let mut seen = Seen {
            on_file: Some(Box::new(move |name| {
                swap(inner.join(name), "../../outside/secret");
            })),
            ..Seen::default()
        };
        let error = Template::open(&root, None)
            .unwrap()
            .deliver(&mut seen)
            .unwrap_err();
        assert!(matches!(error, TemplateError::Changed(_)), "{error}");
        assert!(seen.content.is_empty());
    }

    #[test]
    fn too_deep_too_many_and_too_large_are_told_before_anything_is_read() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("deep");
        fs::create_dir_all(deep.join("d/".repeat(MAX_DEPTH + 1))).unwrap();
        let large = base.path().join("large");
        fs::create_dir(&large).unwrap();
        let file = File::create(large.join("sparse")).unwrap();
        file.set_len(MAX_TOTAL_BYTES + 1).unwrap();
        for root in [deep, large] {
            let error = Template::open(&root, None).unwrap().measure().unwrap_err();
            assert!(matches!(error, TemplateError::TooLarge(_)), "{error}");
        }
    }
}
