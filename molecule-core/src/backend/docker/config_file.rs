//! Reading one file of a container's config directory.

use std::io::Cursor;

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio_tar::{Archive, EntryType};

use super::container::CONFIG_PATH;
use super::daemon::{CallError, Daemon};

/// A file whose archive is longer than this is not read.
const MAX_ARCHIVE_BYTES: usize = 260 * 1024;

/// The file `name` of the config directory of a container, running or not. `None`
/// when there is none, when it is no plain file, or when it is too long.
pub(super) async fn read(
    daemon: &Daemon,
    container: &str,
    name: &str,
) -> Result<Option<Vec<u8>>, CallError> {
    let client = daemon.client().await?;
    let path = format!("{CONFIG_PATH}/{name}");
    let reading = async {
        let options = DownloadFromContainerOptionsBuilder::default()
            .path(&path)
            .build();
        let mut stream = client
            .download_from_container(container, Some(options))
            .boxed();
        let mut archive = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk.map_err(CallError::from) {
                Ok(chunk) => archive.extend_from_slice(&chunk),
                Err(error) if error.is_file_missing() || error.is_container_missing() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            if archive.len() > MAX_ARCHIVE_BYTES {
                return Ok(None);
            }
        }
        first_file(archive).await
    };
    match tokio::time::timeout(daemon.timeout(), reading).await {
        Ok(read) => read,
        Err(_) => Err(CallError::Timeout),
    }
}

/// The content of an archive's first entry, if that is a plain file.
async fn first_file(archive: Vec<u8>) -> Result<Option<Vec<u8>>, CallError> {
    let broken = |error: std::io::Error| CallError::Broken(error.to_string());
    let mut archive = Archive::new(Cursor::new(archive));
    let mut entries = archive.entries().map_err(broken)?;
    let Some(entry) = entries.next().await else {
        return Ok(None);
    };
    let mut entry = entry.map_err(broken)?;
    if entry.header().entry_type() != EntryType::Regular {
        return Ok(None);
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).await.map_err(broken)?;
    Ok(Some(content))
}
