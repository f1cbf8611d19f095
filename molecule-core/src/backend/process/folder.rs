//! The folder of one workspace and what lies in it. Everything here blocks.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::agent::AgentRecord;
use crate::backend::StartSpec;
use crate::backend::template::{self, Receiver, Template, TemplateError, TemplateFile};

/// A log beyond this size is put aside at the next start.
const MAX_LOG_BYTES: u64 = 10 * 1024 * 1024;
/// A longer configuration is not read.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;
const FOLDER_MODE: u32 = 0o700;
/// How much of a template's file is in memory at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Whose a workspace's folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// There is no folder.
    Nobody,
    /// This server's database.
    Us,
    /// Another one.
    Other,
}

/// Why the files could not be put in place. Names nothing outside the folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the workspace folder cannot be written ({0})")]
    Write(io::ErrorKind),
    #[error("no config.yaml")]
    NoConfig,
    #[error("cancelled")]
    Cancelled,
}

impl From<io::Error> for FolderError {
    fn from(error: io::Error) -> Self {
        Self::Write(error.kind())
    }
}

/// `<dir>/<workspace id>` with `configs`, `workspace`, the log and what is
/// remembered about the agent.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
    instance: String,
}

impl Folder {
    /// The path comes from the id alone, so it cannot lead elsewhere.
    pub(super) fn of(dir: &Path, workspace: Uuid, instance: &str) -> Self {
        Self {
            root: dir.join(workspace.to_string()),
            instance: instance.to_owned(),
        }
    }

    pub(super) fn configs(&self) -> PathBuf {
        self.root.join("configs")
    }

    pub(super) fn workspace(&self) -> PathBuf {
        self.root.join("workspace")
    }

    fn owner_file(&self) -> PathBuf {
        self.root.join("owner")
    }

    fn record_file(&self) -> PathBuf {
        self.root.join("instance.json")
    }

    /// Whose it is. One without a name on it was left by a start that was
    /// killed while it made the folder.
    pub(super) fn owner(&self) -> io::Result<Owner> {
        match fs::symlink_metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(Owner::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
            Err(error) => return Err(error),
        }
        match fs::read_to_string(self.owner_file()) {
            Ok(owner) if owner == self.instance => Ok(Owner::Us),
            Ok(_) => Ok(Owner::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Owner::Us),
            Err(error) => Err(error),
        }
    }

    /// Makes what is missing of the folder. Answers whether all of it was.
    pub(super) fn create(&self) -> io::Result<bool> {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(parent(&self.root)?)?;
        let new = match DirBuilder::new().mode(FOLDER_MODE).create(&self.root) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let made = (|| {
            replace_file(&self.owner_file(), self.instance.as_bytes(), 0o600)?;
            for folder in [self.configs(), self.workspace()] {
                DirBuilder::new()
                    .recursive(true)
                    .mode(FOLDER_MODE)
                    .create(folder)?;
            }
            Ok(new)
        })();
        if made.is_err() && new {
            // Best effort; the error that is told is the first one.
            let _ = fs::remove_dir_all(&self.root);
        }
        made
    }

    /// Deletes the folder; none is fine.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Writes the template and then the files into the config folder.
    pub(super) fn write_configs(
        &self,
        spec: &StartSpec,
        cancelled: impl Fn() -> bool,
    ) -> Result<(), FolderError> {
        let configs = self.configs();
        let mut template = spec.template_dir.as_ref();
        // An agent may have put a link in its place: that is its configuration too.
        let config = fs::symlink_metadata(configs.join("config.yaml"));
        if let Some(existing) = &spec.existing_config
            && config.is_err()
        {
            template = Some(existing.fallback.as_ref().ok_or(FolderError::NoConfig)?);
        }
        if let Some(root) = template {
            let template = Template::open(root, spec.template_root.as_deref())?;
            template.measure()?;
            let copied = template.deliver(&mut Copying {
                configs: &configs,
                cancelled: &cancelled,
            });
            match copied {
                Err(FolderError::Cancelled) => return Ok(()),
                copied => copied?,
            }
        }
        for file in &spec.files {
            let name = template::check_name(&file.path)?;
            for parent in template::parents(name) {
                ensure_folder(&configs, parent)?;
            }
            replace_file(&configs.join(name), &file.content, file.mode & 0o777)?;
        }
        Ok(())
    }

    /// A plain file of the config directory that is not too long.
    pub(super) fn read_config(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let path = match template::check_name(path) {
            Ok(name) => self.configs().join(name),
            Err(_) => return Ok(None),
        };
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_CONFIG_BYTES => {
                fs::read(&path).map(Some)
            }
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// The log, for appending; a long one is put aside first.
    pub(super) fn open_log(&self) -> io::Result<File> {
        let path = self.root.join("agent.log");
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            fs::rename(&path, self.root.join("agent.log.1"))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
    }

    /// What is remembered about the agent; `None` when none was started.
    pub(super) fn read_record(&self) -> io::Result<Option<AgentRecord>> {
        match fs::read(self.record_file()) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers the agent.
    pub(super) fn write_record(&self, record: &AgentRecord) -> io::Result<()> {
        replace_file(&self.record_file(), &serde_json::to_vec(record)?, 0o600)
    }

    /// Forgets the agent.
    pub(super) fn remove_record(&self) -> io::Result<()> {
        match fs::remove_file(self.record_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Copies a template into a config folder.
struct Copying<'a> {
    configs: &'a Path,
    cancelled: &'a dyn Fn() -> bool,
}

impl Receiver for Copying<'_> {
    type Error = FolderError;

    fn folder(&mut self, name: &str) -> Result<(), FolderError> {
        Ok(ensure_folder(self.configs, name)?)
    }

    fn file(&mut self, file: TemplateFile<'_>) -> Result<(), FolderError> {
        if (self.cancelled)() {
            return Err(FolderError::Cancelled);
        }
        let mut source = file.open()?;
        let (path, mode) = (self.configs.join(file.name), source.mode());
        replace_with(&path, mode, |out| {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let mut more = true;
            while more {
                piece.clear();
                more = source.read(&mut piece)?;
                out.write_all(&piece)?;
            }
            Ok(())
        })
    }
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Makes one folder below `base`. Whatever an agent left there under its name is
/// replaced, above all a link that leads elsewhere.
fn ensure_folder(base: &Path, name: &str) -> io::Result<()> {
    let path = base.join(name);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    DirBuilder::new().mode(FOLDER_MODE).create(path)
}

/// Puts a file in place in one step and never writes through a link.
fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
}

/// [`replace_file`] with content that `write` brings.
fn replace_with<E: From<io::Error>>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = parent(path)?.join(format!(".{}.new", Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        write(&mut file)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            fs::remove_dir_all(path)?;
        }
        Ok(fs::rename(&temporary, path)?)
    })();
    if written.is_err() {
        // Best effort; the error that is told is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}
