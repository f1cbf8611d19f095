//! Taking a plugin out, with what it owns elsewhere.

use super::names::parts;
use super::{
    ENOENT, Errno, Failed, Files, Joined, MEMORY, Rename, Report, Roots, SKILLS, Step, repair,
    strip, walk,
};

/// Begins the name of the file that takes the place of the memory file.
const TEMPORARY: &[u8] = b".memory";
/// Begins the name under which a skill waits to be deleted.
const SKILL: &[u8] = b".skill-";

/// What is to go.
pub(crate) struct Remove<'a> {
    pub(crate) name: &'a [u8],
    /// `.<stamp>-<8 hex>`.
    pub(crate) suffix: &'a [u8],
}

/// Removes a plugin, its blocks of the memory file and `skills`. Only the place of the
/// plugin counts: what else cannot be removed is told.
pub(crate) fn remove<F: Files>(
    files: &F,
    configs: &F::Folder,
    job: &Remove<'_>,
    skills: &mut dyn Iterator<Item = &[u8]>,
    report: &mut dyn Report,
) -> Result<(), Failed> {
    let found = Roots::open(files, configs).map_err(|errno| Step::Roots.failed(errno))?;
    let is_there = found.is_some();
    let roots = match found.map_or_else(|| Roots::ensure(files, configs), Ok) {
        Ok(roots) => roots,
        Err(errno) if is_there => return Err(Step::Roots.failed(errno)),
        // There are no plugins at all, and no room to work in.
        Err(errno) => {
            report.left(MEMORY, errno);
            return Ok(());
        }
    };
    if let Err(errno) = forget(files, configs, &roots, job) {
        report.left(MEMORY, errno);
    }
    for skill in skills {
        if let Err(errno) = remove_skill(files, configs, &roots, skill, job) {
            report.left(skill, errno);
        }
    }
    let removed = remove_previous(files, &roots, job, report)
        .and_then(|()| away(files, (&roots.plugins, job.name), &roots, job));
    removed.map_err(|errno| Step::Remove.failed(errno))?;
    for folder in [&roots.plugins, &roots.previous, &roots.staging] {
        if let Err(errno) = files.sync_folder(folder) {
            report.left(b"sync", errno);
        }
    }
    if let Ok(gone) = Joined::of(job.name, job.suffix) {
        walk::collect(files, &roots.staging, gone.as_bytes(), report);
    }
    Ok(())
}

/// Takes the plugin's blocks out of the memory file.
fn forget<F: Files>(
    files: &F,
    configs: &F::Folder,
    roots: &Roots<F>,
    job: &Remove<'_>,
) -> Result<(), Errno> {
    let temporary = Joined::of(TEMPORARY, job.suffix)?;
    let temporary = (&roots.staging, temporary.as_bytes());
    let edited = files.edit((configs, MEMORY), temporary, &mut |text| {
        let left = strip(text, job.name);
        (left < text.len()).then_some(left)
    });
    match edited {
        Err(ENOENT) => Ok(()),
        other => other,
    }
}

/// Before the plugin itself: a crash between the two must not bring an older one back.
fn remove_previous<F: Files>(
    files: &F,
    roots: &Roots<F>,
    job: &Remove<'_>,
    report: &mut dyn Report,
) -> Result<(), Errno> {
    files.names(&roots.previous, &mut |entry| {
        if parts(entry).is_some_and(|(plugin, _)| plugin == job.name) {
            repair::discard(files, roots, entry)?;
            walk::collect(files, &roots.staging, entry, report);
        }
        Ok(())
    })
}

fn remove_skill<F: Files>(
    files: &F,
    configs: &F::Folder,
    roots: &Roots<F>,
    skill: &[u8],
    job: &Remove<'_>,
) -> Result<(), Errno> {
    // A plugin may have a skill of its own name: both would want one name to wait under.
    let waiting = Joined::of(SKILL, skill)?;
    let waiting = Joined::of(waiting.as_bytes(), job.suffix)?;
    let removed = files.open(configs, SKILLS).and_then(|skills| {
        let (from, to) = ((&skills, skill), (&roots.staging, waiting.as_bytes()));
        files.rename(from, to, Rename::Plain)?;
        files.sync_folder(&skills)?;
        walk::delete(files, &roots.staging, waiting.as_bytes())
    });
    match removed {
        Err(ENOENT) => Ok(()),
        other => other,
    }
}

/// Moves something to where it is deleted. None is fine.
fn away<F: Files>(
    files: &F,
    from: (&F::Folder, &[u8]),
    roots: &Roots<F>,
    job: &Remove<'_>,
) -> Result<(), Errno> {
    let waiting = Joined::of(from.1, job.suffix)?;
    match files.rename(from, (&roots.staging, waiting.as_bytes()), Rename::Plain) {
        Err(ENOENT) => Ok(()),
        other => other,
    }
}
