//! Temporary folders whose removal holds up nobody.

use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;

/// How often a removal is tried. Who was filling the folder may not have noticed yet that
/// nobody wants it any more.
const TRIES: usize = 10;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(200);

/// A temporary folder of ours. When it is dropped on a thread of the runtime, another
/// thread removes it: a tree of thousands of files takes its time.
#[derive(Debug)]
pub(crate) struct Folder(Option<TempDir>, Box<Path>);

impl From<TempDir> for Folder {
    fn from(folder: TempDir) -> Self {
        let path = folder.path().into();
        Self(Some(folder), path)
    }
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.1
    }

    /// Removes it now, and waits until it is gone.
    pub(crate) async fn remove(mut self) {
        if let Some(folder) = self.0.take() {
            // It says itself what it could not do.
            let _ = tokio::task::spawn_blocking(move || remove(folder)).await;
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Some(folder) = self.0.take() else {
            return;
        };
        match Handle::try_current() {
            // A runtime that ends drops what it did not run, and so removes it too.
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(folder))),
            Err(_) => remove(folder),
        }
    }
}

/// Blocks.
fn remove(folder: TempDir) {
    let folder = folder.keep();
    let mut tries = 1;
    while let Err(error) = std::fs::remove_dir_all(&folder) {
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        if tries == TRIES {
            tracing::warn!(%error, "a temporary folder could not be removed");
            return;
        }
        tries += 1;
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_folder_goes_although_somebody_is_still_writing_to_it() {
        let folder = Folder::from(tempfile::tempdir().unwrap());
        let path = folder.path().to_owned();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                let until = Instant::now() + PAUSE;
                let mut number = 0_u64;
                while Instant::now() < until && number < 100_000 {
                    let _ = fs::write(path.join(format!("file-{number}")), "");
                    number += 1;
                }
            }
        });
        drop(folder);
        writer.join().unwrap();
        assert!(!path.exists());
    }
}
