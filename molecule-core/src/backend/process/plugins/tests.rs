//! Every call that a transaction makes fails in turn, or is its last because whoever
//! made it was killed; then a repair runs. Whatever happens, a plugin is whole.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::fd::OwnedFd;

use super::files::{Native, open_configs};
use crate::backend::plugins::Told;
use crate::backend::plugins::transaction::{
    EINVAL, ENOSYS, Entry, Errno, Failed, Files, Remove, Rename, Step, Swap, remove, repair, swap,
};

const EIO: Errno = 5;
const SUFFIX: &str = ".20260102T000000Z-0123abcd";
const FUTURE: &str = "20300101T000000Z";
const PAST: &str = "20200101T000000Z";
const MEMORY: &str = "mine\n\n# Plugin: demo / rule: x\n\nrule\n\nalso mine\n";
const STRIPPED: &str = "mine\n\nalso mine\n";

/// Files of which some calls fail.
struct Faulty {
    /// So many calls work.
    good: Cell<usize>,
    then: Then,
    /// A system that can neither exchange in one step nor write all through at once.
    plain: bool,
    /// What the agent does right before the staged tree is moved.
    meanwhile: Cell<Option<Box<dyn FnOnce()>>>,
}

/// What happens after the calls that work.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    /// One fails.
    Once,
    /// Everything does, as if the program were gone.
    Killed,
    /// No rename works any more.
    Stuck,
}

impl Faulty {
    fn none() -> Self {
        Self {
            good: Cell::new(usize::MAX),
            then: Then::Once,
            plain: false,
            meanwhile: Cell::default(),
        }
    }

    fn call<T>(&self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        match self.good.get() {
            0 if self.then == Then::Stuck => work(),
            0 => {
                if self.then == Then::Once {
                    self.good.set(usize::MAX);
                }
                Err(EIO)
            }
            left => {
                if left != usize::MAX {
                    self.good.set(left - 1);
                }
                work()
            }
        }
    }
}

impl Files for Faulty {
    type Folder = OwnedFd;

    fn open(&self, at: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        self.call(|| Native.open(at, name))
    }
    fn lock(&self, folder: &OwnedFd) -> Result<(), Errno> {
        self.call(|| Native.lock(folder))
    }
    fn make(&self, at: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        self.call(|| Native.make(at, name))
    }
    fn look(&self, at: &OwnedFd, name: &[u8]) -> Result<Entry, Errno> {
        self.call(|| Native.look(at, name))
    }
    fn names(
        &self,
        folder: &OwnedFd,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.call(|| Native.names(folder, each))
    }
    fn rename(
        &self,
        from: (&OwnedFd, &[u8]),
        to: (&OwnedFd, &[u8]),
        how: Rename,
    ) -> Result<(), Errno> {
        if self.then == Then::Stuck && self.good.get() == 0 {
            return Err(EIO);
        }
        self.call(|| match how {
            Rename::Exchange | Rename::NoReplace if self.plain => Err(EINVAL),
            how => {
                if let Some(act) = self.meanwhile.take() {
                    act();
                }
                Native.rename(from, to, how)
            }
        })
    }
    fn unlink(&self, at: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        self.call(|| Native.unlink(at, name))
    }
    fn remove_folder(&self, at: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        self.call(|| Native.remove_folder(at, name))
    }
    fn read(&self, at: &OwnedFd, name: &[u8], into: &mut [u8]) -> Result<Option<usize>, Errno> {
        self.call(|| Native.read(at, name, into))
    }
    fn edit(
        &self,
        file: (&OwnedFd, &[u8]),
        temporary: (&OwnedFd, &[u8]),
        edit: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> Result<(), Errno> {
        self.call(|| Native.edit(file, temporary, edit))
    }
    fn sync_all(&self, folder: &OwnedFd) -> Result<(), Errno> {
        self.call(|| match self.plain {
            true => Err(ENOSYS),
            false => Native.sync_all(folder),
        })
    }
    fn sync_file(&self, at: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        self.call(|| Native.sync_file(at, name))
    }
    fn sync_folder(&self, folder: &OwnedFd) -> Result<(), Errno> {
        self.call(|| Native.sync_folder(folder))
    }
}

/// A config folder.
struct World(tempfile::TempDir);

type Content = BTreeMap<String, String>;

impl World {
    fn new() -> Self {
        // In memory, where it can be: thousands of them are written through.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let world = Self(folder.unwrap());
        fs::create_dir_all(world.path("plugins/.staging")).unwrap();
        fs::create_dir_all(world.path("plugins/.previous")).unwrap();
        world
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    fn open(&self) -> OwnedFd {
        open_configs(self.0.path()).unwrap()
    }

    /// Writes a whole tree of a version; answers with its entries and bytes.
    fn tree(&self, path: &str, version: &str) -> (u64, u64) {
        let root = self.path(path);
        fs::create_dir_all(root.join("skills/one two")).unwrap();
        for file in ["plugin.yaml", "skills/one two/SKILL.md", ".complete"] {
            fs::write(root.join(file), version).unwrap();
        }
        (5, 3 * version.len() as u64)
    }

    /// What lies there; `None` when nothing does.
    fn content(&self, path: &str) -> Option<Content> {
        fn walk(root: &Path, folder: &Path, found: &mut Content) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, found);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    found.insert(name, fs::read_to_string(path).unwrap());
                }
            }
        }
        let root = self.path(path);
        root.symlink_metadata().ok()?;
        let mut found = Content::new();
        walk(&root, &root, &mut found);
        Some(found)
    }

    fn is_whole(&self, path: &str, version: &str) -> bool {
        let wanted = World::new();
        wanted.tree("x", version);
        self.content(path) == wanted.content("x")
    }

    fn hidden(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in [".staging", ".previous"] {
            for entry in fs::read_dir(self.path("plugins").join(folder)).unwrap() {
                let name = entry.unwrap().file_name();
                found.push(format!("{folder}/{}", name.display()));
            }
        }
        found
    }

    fn stage(&self, version: &str) -> (u64, u64) {
        self.tree(&format!("plugins/.staging/demo{SUFFIX}"), version)
    }

    fn swap(&self, files: &Faulty, (entries, bytes): (u64, u64)) -> Result<Told, Failed> {
        let mut told = Told::default();
        let job = Swap {
            name: b"demo",
            suffix: SUFFIX.as_bytes(),
            cutoff: PAST.as_bytes(),
            entries,
            bytes,
        };
        swap(files, &self.open(), &job, &mut told).map(|()| told)
    }

    fn remove(&self, files: &Faulty) -> Result<Told, Failed> {
        let mut told = Told::default();
        let job = Remove {
            name: b"demo",
            suffix: SUFFIX.as_bytes(),
        };
        let mut skills = [&b"one"[..], b"none"].into_iter();
        remove(files, &self.open(), &job, &mut skills, &mut told).map(|()| told)
    }

    fn repair(&self) -> Told {
        let mut told = Told::default();
        repair(&Native, &self.open(), FUTURE.as_bytes(), &mut told).unwrap();
        told
    }
}

/// Runs `check` with a fault at the first call, the second, … until there is none.
fn at_every_call(mut check: impl FnMut(&Faulty) -> World) {
    let all = [Then::Once, Then::Killed, Then::Stuck];
    for (then, plain) in all
        .into_iter()
        .flat_map(|then| [(then, false), (then, true)])
    {
        for good in 0.. {
            assert!(good < 2000, "it never ends");
            let files = Faulty {
                good: Cell::new(good),
                then,
                plain,
                meanwhile: Cell::default(),
            };
            let world = check(&files);
            drop(world);
            let reached = match then {
                Then::Once => files.good.get() == usize::MAX,
                _ => files.good.get() == 0,
            };
            if !reached {
                assert!(good > 10, "hardly a call was made");
                break;
            }
        }
    }
}

#[test]
fn a_swap_that_fails_or_dies_at_any_call_leaves_a_whole_plugin() {
    let mut absent = 0;
    at_every_call(|files| {
        // Given an old version, and a new one that is staged
        let world = World::new();
        world.tree("plugins/demo", "old");
        let size = world.stage("new");

        // When the swap fails once, or dies
        let swapped = world.swap(files, size);

        // Then the plugin is one or the other, as the answer says
        let (old, new) = (
            world.is_whole("plugins/demo", "old"),
            world.is_whole("plugins/demo", "new"),
        );
        match &swapped {
            // The dead say nothing
            _ if files.then == Then::Killed => {}
            Ok(_) => assert!(new),
            Err(failed) if failed.step == Step::Absent => {
                absent += 1;
                assert!(world.content("plugins/demo").is_none());
                assert!(world.is_whole(&format!("plugins/.previous/demo{SUFFIX}"), "old"));
            }
            Err(failed) => {
                assert!(old, "{failed:?}: {:?}", world.content("plugins/demo"));
                // Without its folders it can clean up nothing
                if failed.step != Step::Roots {
                    assert_eq!(world.hidden(), [""; 0], "{failed:?}");
                }
            }
        }

        // And after a repair in any case, with nothing left
        world.repair();
        let (old, new) = (
            old || world.is_whole("plugins/demo", "old"),
            new || world.is_whole("plugins/demo", "new"),
        );
        assert!(
            old ^ new,
            "{swapped:?}: {:?}",
            world.content("plugins/demo")
        );
        assert_eq!(world.hidden(), [""; 0], "{swapped:?}");
        let size = world.stage("newer");
        world.swap(&Faulty::none(), size).unwrap();
        assert!(world.is_whole("plugins/demo", "newer"));
        world
    });
    // Only where the way back is taken away, too
    assert!(absent > 0);
}

#[test]
fn a_first_install_that_fails_or_dies_at_any_call_is_whole_or_not_there() {
    at_every_call(|files| {
        let world = World::new();
        let size = world.stage("new");
        let swapped = world.swap(files, size);
        let there = world.is_whole("plugins/demo", "new");
        if files.then != Then::Killed {
            assert_eq!(there, swapped.is_ok(), "{swapped:?}");
        }
        assert!(there || world.content("plugins/demo").is_none());
        world.repair();
        assert!(there || world.content("plugins/demo").is_none());
        assert_eq!(world.hidden(), [""; 0], "{swapped:?}");
        world
    });
}

#[test]
fn a_removal_that_fails_or_dies_at_any_call_never_brings_back_an_old_version() {
    at_every_call(|files| {
        // Given a plugin with older versions of it, a skill and a block
        let world = World::new();
        world.tree("plugins/demo", "now");
        world.tree("plugins/.previous/demo.20260101T000000Z-00000001", "older");
        world.tree("plugins/.previous/demo.20260101T000001Z", "old");
        world.tree("plugins/.previous/demo-2.20260101T000001Z", "other");
        fs::create_dir_all(world.path("skills/one")).unwrap();
        fs::create_dir_all(world.path("skills/two")).unwrap();
        fs::write(world.path("CLAUDE.md"), MEMORY).unwrap();

        let removed = world.remove(files);

        // Then it is whole or gone, also after a repair
        let gone = world.content("plugins/demo").is_none();
        assert!(gone || world.is_whole("plugins/demo", "now"));
        if removed.is_ok() && files.then != Then::Killed {
            assert!(gone);
        }
        world.repair();
        assert_eq!(gone, world.content("plugins/demo").is_none(), "{removed:?}");
        assert!(gone || world.is_whole("plugins/demo", "now"));
        assert!(world.is_whole("plugins/demo-2", "other"));
        // And so is what it shares with others
        let memory = fs::read_to_string(world.path("CLAUDE.md")).unwrap();
        assert!([MEMORY, STRIPPED].contains(&memory.as_str()), "{memory:?}");
        assert!(world.path("skills/two").is_dir());
        assert_eq!(world.hidden(), [""; 0], "{removed:?}");

        // And a second attempt ends it
        world.remove(&Faulty::none()).unwrap();
        assert!(world.content("plugins/demo").is_none());
        let memory = fs::read_to_string(world.path("CLAUDE.md")).unwrap();
        assert_eq!(memory, STRIPPED);
        assert!(!world.path("skills/one").exists());
        world
    });
}

#[test]
fn what_is_not_what_was_sent_gets_no_place() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("short", |root| {
            fs::write(root.join("plugin.yaml"), "n").unwrap()
        }),
        ("fewer", |root| {
            fs::remove_file(root.join("plugin.yaml")).unwrap()
        }),
        ("more", |root| {
            fs::write(root.join("skills/more"), "").unwrap()
        }),
        ("unmarked", |root| {
            fs::rename(root.join(".complete"), root.join("complete")).unwrap();
        }),
        ("link", |root| {
            fs::remove_file(root.join("plugin.yaml")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", root.join("plugin.yaml")).unwrap();
        }),
        ("gone", |root| fs::remove_dir_all(root).unwrap()),
    ];
    for (what, damage) in damages {
        for old in [true, false] {
            let world = World::new();
            if old {
                world.tree("plugins/demo", "old");
            }
            let size = world.stage("new");
            damage(&world.path(&format!("plugins/.staging/demo{SUFFIX}")));
            let failed = world.swap(&Faulty::none(), size).unwrap_err();
            assert_eq!(failed.step, Step::Verify, "{what}: {failed:?}");
            let kept = world.is_whole("plugins/demo", "old");
            assert_eq!(kept, old, "{what}");
            assert_eq!(world.hidden(), [""; 0], "{what}");
        }
    }
}

#[test]
fn what_was_not_verified_gets_no_place() {
    for plain in [false, true] {
        for old in [true, false] {
            // Given an agent that puts something else under the staged name at last
            let world = World::new();
            if old {
                world.tree("plugins/demo", "old");
            }
            let size = world.stage("new");
            world.tree("other", "bad");
            let staged = world.path(&format!("plugins/.staging/demo{SUFFIX}"));
            let (other, away) = (world.path("other"), world.path("away"));
            let act = move || {
                fs::rename(&staged, away).unwrap();
                fs::rename(other, staged).unwrap();
            };
            let files = Faulty {
                plain,
                meanwhile: Cell::new(Some(Box::new(act))),
                ..Faulty::none()
            };

            // Then everything is as it was
            let failed = world.swap(&files, size).unwrap_err();
            assert_eq!(failed.step, Step::Exchange, "{plain} {failed:?}");
            assert_eq!(world.is_whole("plugins/demo", "old"), old, "{plain}");
            assert_eq!(world.content("plugins/demo").is_some(), old, "{plain}");
            assert_eq!(world.hidden(), [""; 0], "{plain}");
        }
    }
}

#[test]
fn what_has_the_place_is_replaced_whatever_it_is() {
    for plain in [false, true] {
        for kind in ["file", "link", "dangling", "empty"] {
            let world = World::new();
            let live = world.path("plugins/demo");
            fs::create_dir(world.path("elsewhere")).unwrap();
            fs::write(world.path("elsewhere/precious"), "x").unwrap();
            match kind {
                "file" => fs::write(&live, "x").unwrap(),
                "link" => std::os::unix::fs::symlink("../elsewhere", &live).unwrap(),
                "dangling" => std::os::unix::fs::symlink("nowhere", &live).unwrap(),
                _ => fs::create_dir(&live).unwrap(),
            }
            let size = world.stage("new");
            let files = Faulty {
                plain,
                ..Faulty::none()
            };
            world.swap(&files, size).unwrap();
            assert!(live.symlink_metadata().unwrap().is_dir());
            assert!(world.is_whole("plugins/demo", "new"), "{kind}");
            assert!(world.path("elsewhere/precious").exists(), "{kind}");
            assert_eq!(world.hidden(), [""; 0], "{kind}");
        }
    }
}

#[test]
fn folders_that_lead_elsewhere_are_replaced_and_nothing_there_is_touched() {
    for name in ["plugins", "plugins/.staging", "plugins/.previous"] {
        let world = World::new();
        fs::create_dir(world.path("elsewhere")).unwrap();
        let strange = "demo.20200101T000000Z";
        fs::write(world.path("elsewhere").join(strange), "x").unwrap();
        fs::remove_dir_all(world.path(name)).unwrap();
        let target = world.path("elsewhere");
        std::os::unix::fs::symlink(target, world.path(name)).unwrap();
        world.repair();
        assert!(world.path("elsewhere").join(strange).exists(), "{name}");
        let removed = world.remove(&Faulty::none());
        removed.unwrap();
        assert!(world.path("elsewhere").join(strange).exists(), "{name}");
        assert!(world.path("plugins").symlink_metadata().unwrap().is_dir());
    }
}

#[test]
fn a_repair_brings_back_the_newest_and_leaves_what_is_young_or_strange() {
    let world = World::new();
    world.tree("plugins/.previous/lost.20260101T000000Z-00000001", "old");
    world.tree("plugins/.previous/lost.20260101T000000Z-00000002", "new");
    world.tree("plugins/.previous/there.20260101T000000Z", "old");
    world.tree("plugins/there", "new");
    world.tree("plugins/.staging/there.20260101T000000Z", "half");
    world.tree("plugins/.staging/there.20280101T000000Z", "young");
    world.tree("plugins/.staging/strange", "x");
    world.tree("plugins/.previous/strange", "x");
    fs::write(
        world.path("plugins/.staging/.helper.20260101T000000Z-00000001"),
        "",
    )
    .unwrap();
    let mut told = Told::default();
    let cutoff = "20270101T000000Z";
    repair(&Native, &world.open(), cutoff.as_bytes(), &mut told).unwrap();
    let names: Vec<_> = told.restored.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["lost"]);
    assert!(told.left.is_empty(), "{told:?}");
    assert!(world.is_whole("plugins/lost", "new"));
    assert!(world.is_whole("plugins/there", "new"));
    let mut left = world.hidden();
    left.sort();
    let wanted = [
        ".previous/strange",
        ".staging/strange",
        ".staging/there.20280101T000000Z",
    ];
    assert_eq!(left, wanted);
}
