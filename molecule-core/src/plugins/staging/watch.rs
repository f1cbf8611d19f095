//! Watching what a source writes while it works.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use molecule_hooks::TreeLimits;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::path::Arg;
use tokio::time::Instant;

/// How often is looked, at most.
const EVERY: Duration = Duration::from_millis(200);
/// Looking takes no more than this part of the time.
const SHARE: u32 = 5;
/// A clone keeps its objects in a folder of its own.
const CLONE_FOLDER: &[u8] = b".git";

/// Ends when a folder has more in it than the limits allow, with what that is. What a
/// clone keeps in `.git` may be as much again.
pub(super) async fn outgrown(folder: &Path, limits: TreeLimits) -> &'static str {
    let mut pause = EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let (begun, folder) = (Instant::now(), folder.to_owned());
        let looked = tokio::task::spawn_blocking(move || look(&folder, limits)).await;
        if let Ok(Some(what)) = looked {
            return what;
        }
        pause = EVERY.max(begun.elapsed() * SHARE);
    }
}

/// What is too much in a folder, if something is.
fn look(folder: &Path, limits: TreeLimits) -> Option<&'static str> {
    let root = open_folder(CWD, folder)?;
    let mut clone = None;
    let what = Sum::of(limits).add(&root, 0, &mut |name, below| {
        if name == CLONE_FOLDER {
            clone = Some(below);
            return None;
        }
        Some(below)
    });
    // What is in the tree is there as an object too, compressed or not, beside others.
    let mut objects = limits.with_bytes(limits.bytes + limits.bytes / 8 + (1 << 20));
    objects.entries = limits.entries.saturating_mul(2).saturating_add(1000);
    what.or_else(|| Sum::of(objects).add(&clone?, 1, &mut |_, below| Some(below)))
}

struct Sum {
    limits: TreeLimits,
    entries: usize,
    bytes: u64,
}

/// Gets every folder with its name, and gives back those to look into.
type Below<'a> = dyn FnMut(&[u8], OwnedFd) -> Option<OwnedFd> + 'a;

impl Sum {
    fn of(limits: TreeLimits) -> Self {
        Self {
            limits,
            entries: 0,
            bytes: 0,
        }
    }

    /// Adds what is in a folder. What vanishes meanwhile does not count.
    fn add(
        &mut self,
        folder: &OwnedFd,
        depth: usize,
        below: &mut Below<'_>,
    ) -> Option<&'static str> {
        if depth > self.limits.depth {
            return Some("folders nested too deeply");
        }
        for entry in Dir::read_from(folder).ok()?.flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Some("too many files");
            }
            let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let opened = open_folder(folder, name);
                    let inner = opened.and_then(|opened| below(name.to_bytes(), opened));
                    let what = inner.and_then(|inner| self.add(&inner, depth + 1, below));
                    if what.is_some() {
                        return what;
                    }
                }
                FileType::RegularFile => {
                    let bytes = u64::try_from(stat.st_size).unwrap_or_default();
                    self.bytes = self.bytes.saturating_add(bytes);
                    if self.bytes > self.limits.bytes {
                        return Some("too many bytes");
                    }
                }
                _ => {}
            }
        }
        None
    }
}

fn open_folder(below: impl AsFd, name: impl Arg) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(below, name, flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn limits(bytes: u64, entries: usize) -> TreeLimits {
        let mut limits = TreeLimits::default().with_bytes(bytes);
        limits.entries = entries;
        limits
    }

    #[test]
    fn what_a_source_wrote_is_measured_and_its_clone_apart() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join(".git/objects")).unwrap();
        fs::write(root.join("a/b/x"), [0; 1000]).unwrap();
        fs::write(root.join(".git/objects/x"), [0; 1000]).unwrap();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        assert_eq!(look(root, limits(1000, 5)), None);
        assert_eq!(look(root, limits(999, 5)), Some("too many bytes"));
        assert_eq!(look(root, limits(1000, 4)), Some("too many files"));
        let huge = fs::File::create(root.join(".git/huge")).unwrap();
        huge.set_len(3 << 20).unwrap();
        assert_eq!(look(root, limits(1000, 5)), Some("too many bytes"));
        assert_eq!(look(&root.join("none"), limits(1, 1)), None);
        let mut shallow = limits(1000, 100);
        shallow.depth = 1;
        assert_eq!(look(root, shallow), Some("folders nested too deeply"));
    }
}
