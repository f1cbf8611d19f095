//! Temporary folders whose removal holds up nobody.

use std::path::Path;

use tempfile::TempDir;
use tokio::runtime::Handle;

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

fn remove(folder: TempDir) {
    if let Err(error) = folder.close() {
        tracing::warn!(%error, "a temporary folder could not be removed");
    }
}
