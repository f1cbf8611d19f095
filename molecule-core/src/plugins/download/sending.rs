//! Sending an archive, to whoever takes it in a reasonable time.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::Download;
use crate::plugins::Plugins;

/// How much of an archive is in memory at once, and once more in the channel.
const PIECE_BYTES: usize = 64 * 1024;
/// Whoever takes less than this per second is too slow.
const SLOWEST_BYTES_PER_SEC: u64 = 64 * 1024;
/// What everybody may take besides.
const GRACE: Duration = Duration::from_secs(60);

impl Plugins {
    /// A part of an archive, whose room is free again when all of it was taken, when
    /// nobody wants it any more, or when that takes too long. A task of its own sees to
    /// that: nobody asks for the next piece on behalf of a client that takes none.
    pub(in crate::plugins) fn send(
        &self,
        download: Download,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let length = range.end.saturating_sub(range.start);
        let (pieces, taken) = mpsc::channel(1);
        let shutdown = self.services.supervisor.token();
        let Download { archive, room, .. } = download;
        let sending = async move {
            let _until_sent = room;
            let reading = read(archive.file, range, &pieces);
            tokio::select! {
                () = shutdown.cancelled() => {}
                ended = tokio::time::timeout(time_for(length), reading) => if ended.is_err() {
                    tracing::info!(bytes = length, "a plugin was taken too slowly; given up");
                }
            }
        };
        self.services.supervisor.spawn("plugin-download", sending);
        whole(taken, length)
    }
}

fn time_for(bytes: u64) -> Duration {
    GRACE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SEC)
}

/// Reads as fast as the pieces are taken, until nobody takes them.
async fn read(file: File, range: Range<u64>, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut file = tokio::fs::File::from_std(file);
    if let Err(error) = file.seek(SeekFrom::Start(range.start)).await {
        let _ = pieces.send(Err(error)).await;
        return;
    }
    let part = file.take(range.end.saturating_sub(range.start));
    let mut part = ReaderStream::with_capacity(part, PIECE_BYTES);
    while let Some(piece) = part.next().await {
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

/// The pieces; an error where they end too early.
fn whole(
    taken: mpsc::Receiver<io::Result<Bytes>>,
    length: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((taken, length), |(mut taken, left)| async move {
        match taken.recv().await {
            Some(piece) => {
                let piece = piece?;
                let left = left.saturating_sub(piece.len() as u64);
                Ok(Some((piece, (taken, left))))
            }
            None if left > 0 => Err(io::ErrorKind::TimedOut.into()),
            None => Ok(None),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::TryStreamExt;

    use super::*;

    fn spooled(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn time_grows_with_what_there_is_to_take() {
        assert_eq!(time_for(0), GRACE);
        let large = time_for(100 * 1024 * 1024);
        assert_eq!(large, GRACE + Duration::from_secs(1600));
    }

    #[tokio::test]
    async fn a_part_comes_whole_and_what_is_cut_off_is_an_error() {
        let content: Vec<u8> = (0..500_000_u32).map(|number| number as u8).collect();
        for (range, given_up) in [(0..500_000, false), (7..300_001, false), (0..500_000, true)] {
            let (pieces, taken) = mpsc::channel(1);
            let (file, part) = (spooled(&content), range.start as u64..range.end as u64);
            let reading = tokio::spawn(async move {
                let limit = Duration::from_millis(if given_up { 50 } else { 60_000 });
                let _ = tokio::time::timeout(limit, read(file, part, &pieces)).await;
            });
            if given_up {
                // The client takes nothing
                reading.await.unwrap();
            }
            let all: io::Result<Vec<Bytes>> = whole(taken, range.len() as u64).try_collect().await;
            match all {
                Ok(pieces) => assert!(!given_up && pieces.concat() == content[range]),
                Err(error) => assert!(given_up && error.kind() == io::ErrorKind::TimedOut),
            }
        }
    }
}
