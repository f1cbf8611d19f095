//! The tar streams that bring files into a container.
//!
//! One thread reads the files and writes the archive, piece by piece, into a channel
//! that holds a few pieces. So a large template needs no more memory than a small
//! one.

mod tar;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) use self::tar::TarWriter;
use crate::backend::template::{self, Receiver, Template, TemplateError, TemplateFile};
use crate::backend::{Phase, StartSpec};

/// How many pieces may be in flight between writer and upload.
const PIECES: usize = 4;
/// Smaller archives are told as a whole.
const TELL_ABOVE: u64 = 8 * 1024 * 1024;
/// Percent between two signs of life.
const TELL_EVERY: u64 = 5;
/// Files that only the agent may read, whatever the template says.
const PRIVATE: &[&str] = &[".auth_token", ".platform_inbound_secret"];
const PRIVATE_MODE: u32 = 0o600;

/// Why the files could not be brought along.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A file could not be read, or is another one by now.
    #[error("{0:?} cannot be read ({1})")]
    Read(String, io::ErrorKind),
    /// The reader went away; it knows why.
    #[error("the upload ended early")]
    Abandoned,
}

/// What can be written as an archive.
pub(super) trait Pack: Send + 'static {
    /// Writes all entries. Blocks.
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError>;
}

/// The files of a workspace that starts.
pub(super) struct Content {
    /// Folders at its root, to be handed to the agent.
    pub(super) folders: Vec<String>,
    /// Where template and files go: empty, or a folder name with a slash.
    pub(super) prefix: &'static str,
    /// A folder that is copied first.
    pub(super) template: Option<PathBuf>,
    /// Whose files go there.
    pub(super) spec: Option<Arc<StartSpec>>,
}

/// An archive that is being written.
pub(super) struct Writing {
    /// Ends well only after the whole archive went out.
    pub(super) task: JoinHandle<Result<(), ArchiveError>>,
    /// Bytes that went out so far.
    pub(super) moved: Arc<AtomicU64>,
    /// Ends the writing; for who does not read any more.
    pub(super) stop: CancellationToken,
}

/// Begins to write an archive. The stream fails, so that half an archive never looks
/// like a whole one, when the content cannot be read.
pub(super) fn write(
    content: impl Pack,
) -> (
    Writing,
    impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) {
    let (pieces, mut received) = mpsc::channel(PIECES);
    let (moved, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let outlet = Outlet {
        pieces,
        moved: Arc::clone(&moved),
        stop: stop.clone(),
        runtime: Handle::current(),
    };
    let task = tokio::task::spawn_blocking(move || write_to(&content, outlet));
    let stream = stream::poll_fn(move |context| received.poll_recv(context));
    (Writing { task, moved, stop }, stream)
}

/// Where the pieces of an archive go.
pub(super) struct Outlet {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    moved: Arc<AtomicU64>,
    stop: CancellationToken,
    runtime: Handle,
}

impl Outlet {
    /// Waits until there is room. Must not be called on a thread of the runtime.
    fn send(&self, piece: io::Result<Bytes>) -> Result<(), ArchiveError> {
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        let sent = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => false,
                sent = self.pieces.send(piece) => sent.is_ok(),
            }
        });
        if sent {
            self.moved.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        } else {
            Err(ArchiveError::Abandoned)
        }
    }
}

fn write_to(content: &impl Pack, outlet: Outlet) -> Result<(), ArchiveError> {
    let mut tar = TarWriter::new(outlet);
    match content.pack(&mut tar) {
        Ok(()) => tar.finish(),
        Err(error) => {
            // Whoever reads may be gone; the first error is the one to tell.
            let _ = tar.fail();
            Err(error)
        }
    }
}

impl Pack for Content {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        for folder in &self.folders {
            tar.folder(folder)?;
        }
        let Some(spec) = &self.spec else {
            return Ok(());
        };
        if let Some(root) = &self.template {
            let template = Template::open(root, spec.template_root.as_deref())?;
            let total = template.measure()?;
            template.deliver(&mut Copying {
                tar,
                prefix: self.prefix,
                told: Told {
                    spec,
                    total,
                    done: 0,
                    percent: 0,
                },
            })?;
        }
        for file in &spec.files {
            let name = template::check_name(&file.path)?;
            for parent in template::parents(name) {
                tar.folder(&format!("{}{parent}", self.prefix))?;
            }
            let mode = mode_of(name, file.mode & 0o777);
            tar.file(&format!("{}{name}", self.prefix), mode, &file.content)?;
        }
        Ok(())
    }
}

fn mode_of(name: &str, mode: u32) -> u32 {
    if PRIVATE.contains(&name) {
        PRIVATE_MODE
    } else {
        mode
    }
}

/// Copies a template into an archive.
struct Copying<'a> {
    tar: &'a mut TarWriter,
    prefix: &'static str,
    told: Told<'a>,
}

impl Receiver for Copying<'_> {
    type Error = ArchiveError;

    fn folder(&mut self, name: &str) -> Result<(), ArchiveError> {
        self.tar.folder(&format!("{}{name}", self.prefix))
    }

    fn file(&mut self, file: TemplateFile<'_>) -> Result<(), ArchiveError> {
        let mut source = file.open()?;
        let name = format!("{}{}", self.prefix, file.name);
        let mode = mode_of(file.name, source.mode());
        self.tar.begin_file(&name, mode, source.len())?;
        let mut more = true;
        while more {
            let buffer = self.tar.buffer()?;
            let before = buffer.len();
            more = source.read(buffer)?;
            let read = buffer.len() - before;
            self.told.add(read as u64);
        }
        self.tar.end_file(source.len())
    }
}

/// Tells how much of a large template is copied.
struct Told<'a> {
    spec: &'a StartSpec,
    total: u64,
    done: u64,
    percent: u64,
}

impl Told<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.total < TELL_ABOVE {
            return;
        }
        let percent = (self.done.saturating_mul(100) / self.total).min(100);
        if percent < self.percent + TELL_EVERY {
            return;
        }
        self.percent = percent;
        let megabytes = |bytes: u64| bytes >> 20;
        self.spec.progress.tell(
            Phase::Copy,
            format!(
                "template: {} of {} MiB",
                megabytes(self.done),
                megabytes(self.total)
            ),
            u8::try_from(percent).ok(),
        );
    }
}

#[cfg(test)]
mod tests;
