//! Reading one file of a container's config directory, and whose a folder is.

use std::io::Cursor;

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio_tar::{Archive, EntryType, Header};

use super::container::CONFIG_PATH;
use super::daemon::{CallError, Daemon};
use crate::backend::template;

/// A longer file is not read.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Beginning of an archive that is looked at: the longest file and what surrounds
/// it.
const MAX_ARCHIVE_BYTES: usize = 260 * 1024;

/// The head of an entry of an archive.
const HEADER_BYTES: usize = 512;

/// What is there under a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// Something that is no plain file: a link or a folder.
    Other,
    /// A plain file that is not read because of its length.
    TooLong,
    /// The content of a plain file.
    File(Vec<u8>),
}

/// The file `name` of the config directory of a container, running or not.
pub(super) async fn read(daemon: &Daemon, container: &str, name: &str) -> Result<Found, CallError> {
    let Ok(name) = template::check_name(name) else {
        return Ok(Found::Nothing);
    };
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
        while archive.len() <= MAX_ARCHIVE_BYTES
            && let Some(chunk) = stream.next().await
        {
            match chunk.map_err(CallError::from) {
                Ok(chunk) => archive.extend_from_slice(&chunk),
                Err(error) if error.is_file_missing() || error.is_container_missing() => {
                    return Ok(Found::Nothing);
                }
                Err(error) => return Err(error),
            }
        }
        first_file(archive).await
    };
    match tokio::time::timeout(daemon.timeout(), reading).await {
        Ok(read) => read,
        Err(_) => Err(CallError::Timeout),
    }
}

/// The owner of a folder of a container, running or not; `None` when there is none.
pub(super) async fn owner(
    daemon: &Daemon,
    container: &str,
    path: &str,
) -> Result<Option<u64>, CallError> {
    let client = daemon.client().await?;
    let reading = async {
        let options = DownloadFromContainerOptionsBuilder::default()
            .path(path)
            .build();
        let mut stream = client
            .download_from_container(container, Some(options))
            .boxed();
        let mut head = Vec::new();
        while head.len() < HEADER_BYTES
            && let Some(chunk) = stream.next().await
        {
            match chunk.map_err(CallError::from) {
                Ok(chunk) => head.extend_from_slice(&chunk),
                Err(error) if error.is_file_missing() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(owner_of(&head))
    };
    match tokio::time::timeout(daemon.timeout(), reading).await {
        Ok(read) => read,
        Err(_) => Err(CallError::Timeout),
    }
}

/// The owner of the first entry of an archive, of which the beginning is enough.
fn owner_of(archive: &[u8]) -> Option<u64> {
    let head = archive.first_chunk::<HEADER_BYTES>()?;
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(head);
    header.uid().ok()
}

/// What the first entry of an archive is. Of a long archive the beginning is
/// enough.
async fn first_file(archive: Vec<u8>) -> Result<Found, CallError> {
    let broken = |error: std::io::Error| CallError::Broken(error.to_string());
    let mut archive = Archive::new(Cursor::new(archive));
    let mut entries = archive.entries().map_err(broken)?;
    let Some(entry) = entries.next().await else {
        return Ok(Found::Nothing);
    };
    let mut entry = entry.map_err(broken)?;
    if entry.header().entry_type() != EntryType::Regular {
        return Ok(Found::Other);
    }
    if entry.effective_size() > MAX_FILE_BYTES {
        return Ok(Found::TooLong);
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).await.map_err(broken)?;
    Ok(Found::File(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_owner_of_a_folder_is_in_the_first_header() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_uid(1234);
        header.set_size(0);
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        assert_eq!(owner_of(&archive), Some(1234));
        archive.extend_from_slice(&[0; 1024]);
        assert_eq!(owner_of(&archive), Some(1234));
        assert_eq!(owner_of(&archive[..511]), None);
        assert_eq!(owner_of(&[]), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
            owner_of(&bytes);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(first_file(bytes));
        }
    }
}
