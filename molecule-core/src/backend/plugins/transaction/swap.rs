//! Putting a staged tree in the place of a plugin.

use super::walk::{self, Count};
use super::{
    EBADMSG, EEXIST, EINVAL, ENOENT, ENOSYS, ESTALE, Errno, Failed, Files, Joined, Kind, MARKER,
    Rename, Report, Roots, Step, repair,
};

/// How often the two ways to get a place are tried in turn, while somebody else makes
/// and removes what has it.
const ATTEMPTS: usize = 4;

/// A tree that lies in `.staging` as `<name><suffix>`.
pub(crate) struct Swap<'a> {
    pub(crate) name: &'a [u8],
    /// `.<stamp>-<8 hex>`.
    pub(crate) suffix: &'a [u8],
    /// Leftovers from before this stamp are nobody's.
    pub(crate) cutoff: &'a [u8],
    /// Files and folders in it, with its marker.
    pub(crate) entries: u64,
    /// Bytes of all files in it.
    pub(crate) bytes: u64,
}

/// Repairs, verifies what arrived, writes it through to the disk, gives it its place and
/// deletes what had it. Whatever fails leaves the old tree in place and removes the new
/// one.
pub(crate) fn swap<F: Files>(
    files: &F,
    configs: &F::Folder,
    job: &Swap<'_>,
    report: &mut dyn Report,
) -> Result<(), Failed> {
    let roots = Roots::ensure(files, configs).map_err(|errno| Step::Roots.failed(errno))?;
    let staged = Joined::of(job.name, job.suffix).map_err(|errno| Step::Roots.failed(errno))?;
    let staged = staged.as_bytes();
    repair::repair_in(files, &roots, job.cutoff, report);
    let swapped = verify(files, &roots, job, staged)
        .and_then(|identity| exchange(files, &roots, job.name, staged, identity));
    match swapped {
        Err(failed) if failed.step == Step::Absent => return swapped,
        Err(_) => {}
        Ok(()) => {
            // The names must be on the disk before what they used to mean is gone from
            // it. If they cannot be, the new tree is in place all the same.
            for folder in [&roots.plugins, &roots.staging] {
                if let Err(errno) = files.sync_folder(folder) {
                    report.left(b"sync", errno);
                }
            }
        }
    }
    // The new tree after a failure, the old one else.
    walk::collect(files, &roots.staging, staged, report);
    swapped
}

/// Checks that everything arrived and has it on the disk. Answers with what the staged
/// folder is, whatever it is called.
fn verify<F: Files>(
    files: &F,
    roots: &Roots<F>,
    job: &Swap<'_>,
    staged: &[u8],
) -> Result<(u64, u64), Failed> {
    let failed = |errno| Step::Verify.failed(errno);
    let entry = files.look(&roots.staging, staged).map_err(failed)?;
    let folder = files.open(&roots.staging, staged).map_err(failed)?;
    let marker = files.look(&folder, MARKER).map_err(failed)?;
    let mut count = Count::default();
    walk::count(files, &folder, 0, &mut count).map_err(failed)?;
    let wanted = Count {
        entries: job.entries,
        bytes: job.bytes,
        strange: 0,
    };
    if marker.kind != Kind::File || count != wanted {
        return Err(failed(EBADMSG));
    }
    walk::sync(files, &folder).map_err(|errno| Step::Sync.failed(errno))?;
    Ok(entry.identity)
}

/// Gives the staged tree the place, and its name to what had it.
fn exchange<F: Files>(
    files: &F,
    roots: &Roots<F>,
    name: &[u8],
    staged: &[u8],
    identity: (u64, u64),
) -> Result<(), Failed> {
    let live = (&roots.plugins, name);
    let new = (&roots.staging, staged);
    let mut last = ENOENT;
    for attempt in 0..ATTEMPTS {
        let how = match attempt % 2 {
            0 => Rename::Exchange,
            // There is nothing to exchange it with.
            _ => Rename::NoReplace,
        };
        match files.rename(new, live, how) {
            Ok(()) if is_at(files, live, identity) => return Ok(()),
            Ok(()) => return Err(taken_back(ESTALE, files.rename(live, new, how))),
            Err(EINVAL | ENOSYS) => return step_by_step(files, roots, name, staged, identity),
            Err(errno @ (ENOENT | EEXIST)) => last = errno,
            Err(errno) => return Err(Step::Exchange.failed(errno)),
        }
    }
    Err(Step::Exchange.failed(last))
}

/// Looks whether what has the place is what was verified; an agent may have put
/// something else under the staged name. Then everything is to be as it was.
fn is_at<F: Files>(files: &F, live: (&F::Folder, &[u8]), identity: (u64, u64)) -> bool {
    files
        .look(live.0, live.1)
        .is_ok_and(|entry| entry.identity == identity)
}

/// Without an exchange in one step: the old tree is put aside, and for a moment there is
/// none. A crash in that moment is what a repair puts right.
fn step_by_step<F: Files>(
    files: &F,
    roots: &Roots<F>,
    name: &[u8],
    staged: &[u8],
    identity: (u64, u64),
) -> Result<(), Failed> {
    let live = (&roots.plugins, name);
    let new = (&roots.staging, staged);
    let aside = (&roots.previous, staged);
    let had = match files.rename(live, aside, Rename::Plain) {
        Ok(()) => true,
        Err(ENOENT) => false,
        Err(errno) => return Err(Step::Snapshot.failed(errno)),
    };
    // Neither into a folder nor over one that holds anything.
    let moved = match files.rename(new, live, Rename::Plain) {
        Ok(()) if is_at(files, live, identity) => Ok(()),
        Ok(()) => match files.rename(live, new, Rename::Plain) {
            Ok(()) => Err(ESTALE),
            Err(rollback) => return Err(taken_back(ESTALE, Err(rollback))),
        },
        Err(errno) => Err(errno),
    };
    if let Err(errno) = moved {
        let undone = match had {
            true => files.rename(aside, live, Rename::Plain),
            false => Ok(()),
        };
        return Err(taken_back(errno, undone));
    }
    if had {
        // It is in the way of nobody there, if this fails: the next repair collects it.
        let _ = files.sync_folder(&roots.plugins);
        let _ = files.rename(aside, (&roots.staging, staged), Rename::Plain);
    }
    Ok(())
}

fn taken_back(errno: Errno, undone: Result<(), Errno>) -> Failed {
    match undone {
        Ok(()) => Step::Exchange.failed(errno),
        Err(rollback) => Failed {
            step: Step::Absent,
            errno,
            rollback,
        },
    }
}
