//! Putting right what a crash left.

use super::names::{is_older, is_plugin, parts};
use super::{EEXIST, ENOENT, ENOTEMPTY, Errno, Failed, Files, Rename, Report, Roots, Step, walk};

/// Brings back plugins that are only among the previous ones, and deletes what was left
/// before `cutoff`. What cannot be done is told, and fails nothing else.
pub(crate) fn repair<F: Files>(
    files: &F,
    configs: &F::Folder,
    cutoff: &[u8],
    report: &mut dyn Report,
) -> Result<(), Failed> {
    let roots = Roots::open(files, configs).map_err(|errno| Step::Roots.failed(errno))?;
    if let Some(roots) = roots {
        repair_in(files, &roots, cutoff, report);
    }
    Ok(())
}

pub(super) fn repair_in<F: Files>(
    files: &F,
    roots: &Roots<F>,
    cutoff: &[u8],
    report: &mut dyn Report,
) {
    let mut restored = false;
    let looked = files.names(&roots.previous, &mut |entry| {
        match bring_back(files, roots, entry) {
            Ok(false) => {}
            Ok(true) => {
                restored = true;
                report.restored(parts(entry).map_or(entry, |(plugin, _)| plugin));
                return Ok(());
            }
            Err(errno) => report.left(entry, errno),
        }
        // From here on it only waits to be deleted, where no repair brings it back.
        if is_older(entry, cutoff)
            && let Err(errno) = discard(files, roots, entry)
        {
            report.left(entry, errno);
        }
        Ok(())
    });
    if let Err(errno) = looked {
        report.left(super::PREVIOUS, errno);
    }
    if restored {
        let _ = files.sync_folder(&roots.plugins);
    }
    let looked = files.names(&roots.staging, &mut |entry| {
        if is_older(entry, cutoff) {
            walk::collect(files, &roots.staging, entry, report);
        }
        Ok(())
    });
    if let Err(errno) = looked {
        report.left(super::STAGING, errno);
    }
}

/// Moves a previous tree into the place of its plugin, if that is empty and it is the
/// newest. True when it did.
fn bring_back<F: Files>(files: &F, roots: &Roots<F>, entry: &[u8]) -> Result<bool, Errno> {
    let Some((plugin, stamp)) = parts(entry).filter(|(plugin, _)| is_plugin(plugin)) else {
        return Ok(false);
    };
    match files.look(&roots.plugins, plugin) {
        Ok(_) => return Ok(false),
        Err(ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let mut newest = true;
    files.names(&roots.previous, &mut |other| {
        let later = parts(other).is_some_and(|(other, later)| other == plugin && later > stamp);
        newest = newest && !later;
        Ok(())
    })?;
    if !newest {
        return Ok(false);
    }
    let (from, to) = ((&roots.previous, entry), (&roots.plugins, plugin));
    match files.rename(from, to, Rename::NoReplace) {
        Ok(()) => Ok(true),
        // It was put there in this moment, or the one that is to be brought back was.
        Err(EEXIST | ENOENT) => Ok(false),
        // Where that cannot be asked for: a folder that holds anything stays anyway.
        Err(super::EINVAL | super::ENOSYS) => files.rename(from, to, Rename::Plain).map(|()| true),
        Err(errno) => Err(errno),
    }
}

/// Moves a previous tree to where things are deleted.
pub(super) fn discard<F: Files>(files: &F, roots: &Roots<F>, entry: &[u8]) -> Result<(), Errno> {
    let (from, to) = ((&roots.previous, entry), (&roots.staging, entry));
    match files.rename(from, to, Rename::Plain) {
        // The new tree that it made room for, and that never got it.
        Err(EEXIST | ENOTEMPTY) => {
            walk::delete(files, &roots.staging, entry)?;
            files.rename(from, to, Rename::Plain)
        }
        other => other,
    }
}

/// Deletes entries of `.staging`: what an install left that failed before its swap.
pub(crate) fn discard_staged<F: Files>(
    files: &F,
    configs: &F::Folder,
    entries: &mut dyn Iterator<Item = &[u8]>,
    report: &mut dyn Report,
) -> Result<(), Failed> {
    let roots = Roots::open(files, configs).map_err(|errno| Step::Roots.failed(errno))?;
    if let Some(roots) = roots {
        for entry in entries {
            walk::collect(files, &roots.staging, entry, report);
        }
    }
    Ok(())
}
