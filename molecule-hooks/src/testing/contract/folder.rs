use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

/// Files by their paths; `None` for what is neither a file nor a folder.
pub(super) type Tree = BTreeMap<String, Option<Vec<u8>>>;

/// An empty folder that goes when it is dropped.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("molecule-contract-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody can be told, and the next run uses other names.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is in a folder beside the destination.
pub(super) fn strays(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "destination" {
            names.push(name);
        }
    }
    Ok(names)
}

/// The files below a folder; `None` for what is neither a file nor a folder.
pub(super) fn read(folder: &Path) -> io::Result<Tree> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path);
            let content = if kind.is_file() {
                Some(fs::read(&path)?)
            } else {
                None
            };
            found.insert(name.to_string_lossy().into_owned(), content);
        }
    }
    Ok(found)
}
