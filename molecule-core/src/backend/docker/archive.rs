//! The tar stream that brings a workspace's files into its container.

use std::collections::HashSet;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, DuplexStream};
use tokio_tar::{Builder, EntryType, Header};
use tokio_util::io::ReaderStream;

use crate::backend::StartSpec;
use crate::backend::template::{self, TemplateEntry, TemplateError};

/// The user that agents run as.
const AGENT_ID: u64 = 1000;
const FOLDER_MODE: u32 = 0o755;
/// How much may be in flight between writer and upload.
const BUFFER_BYTES: usize = 256 * 1024;

/// Why the files could not be brought along.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The reader went away; it knows why.
    #[error("the upload ended early")]
    Abandoned,
}

impl From<io::Error> for ArchiveError {
    fn from(_: io::Error) -> Self {
        Self::Abandoned
    }
}

/// The two ends of an archive: what is written into the first comes out of the
/// second.
pub(super) fn pipe() -> (
    DuplexStream,
    impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) {
    let (writer, reader) = tokio::io::duplex(BUFFER_BYTES);
    (
        writer,
        ReaderStream::with_capacity(reader, BUFFER_BYTES).boxed(),
    )
}

/// What an archive holds.
pub(super) struct Content<'a> {
    /// Folders at its root, to be handed to the agent.
    pub(super) folders: &'a [&'a str],
    /// Where template and files go: empty, or a folder name with a slash.
    pub(super) prefix: &'a str,
    /// Whose template and files go there.
    pub(super) spec: Option<&'a StartSpec>,
}

impl Content<'_> {
    /// Writes the archive.
    pub(super) async fn write<W>(&self, out: W) -> Result<(), ArchiveError>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let mut archive = Archive::new(out);
        for folder in self.folders {
            archive.folder(folder).await?;
        }
        if let Some(spec) = self.spec {
            self.write_template(&mut archive, spec).await?;
            self.write_files(&mut archive, spec).await?;
        }
        archive.finish().await
    }

    async fn write_template<W>(
        &self,
        archive: &mut Archive<W>,
        spec: &StartSpec,
    ) -> Result<(), ArchiveError>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let Some(root) = spec.template_dir.clone() else {
            return Ok(());
        };
        for entry in off_thread(move || template::walk(&root)).await? {
            match entry {
                TemplateEntry::Folder(name) => {
                    archive.folder(&format!("{}{name}", self.prefix)).await?;
                }
                TemplateEntry::File(file) => {
                    let (name, mode) = (format!("{}{}", self.prefix, file.name), file.mode);
                    let content = off_thread(move || file.read()).await?;
                    archive.file(&name, mode, &content).await?;
                }
            }
        }
        Ok(())
    }

    async fn write_files<W>(
        &self,
        archive: &mut Archive<W>,
        spec: &StartSpec,
    ) -> Result<(), ArchiveError>
    where
        W: AsyncWrite + Unpin + Send,
    {
        for file in &spec.files {
            let name = template::check_name(&file.path)?;
            for parent in template::parents(name) {
                archive.folder(&format!("{}{parent}", self.prefix)).await?;
            }
            let name = format!("{}{name}", self.prefix);
            archive
                .file(&name, file.mode & 0o777, &file.content)
                .await?;
        }
        Ok(())
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, ArchiveError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(ArchiveError::Abandoned),
    }
}

struct Archive<W: AsyncWrite + Unpin + Send> {
    // The other constructor ends the archive when it is dropped, and would make
    // half an archive look whole.
    builder: Builder<W>,
    folders: HashSet<String>,
}

impl<W: AsyncWrite + Unpin + Send> Archive<W> {
    fn new(out: W) -> Self {
        Self {
            builder: Builder::new_non_terminated(out),
            folders: HashSet::new(),
        }
    }

    async fn folder(&mut self, name: &str) -> Result<(), ArchiveError> {
        if self.folders.insert(name.to_owned()) {
            let mut header = header(EntryType::Directory, FOLDER_MODE, 0);
            self.builder
                .append_data(&mut header, format!("{name}/"), &[][..])
                .await?;
        }
        Ok(())
    }

    async fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<(), ArchiveError> {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        Ok(self.builder.append_data(&mut header, name, content).await?)
    }

    async fn finish(self) -> Result<(), ArchiveError> {
        let mut out = self.builder.into_inner().await?;
        Ok(tokio::io::AsyncWriteExt::shutdown(&mut out).await?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(AGENT_ID);
    header.set_gid(AGENT_ID);
    header.set_mtime(u64::try_from(chrono::Utc::now().timestamp()).unwrap_or_default());
    header.set_size(size);
    header
}
