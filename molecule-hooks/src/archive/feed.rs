//! From bytes that arrive to a thread that reads them.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::{Receiver, channel};

use super::ArchiveError;

/// Bytes that are handed over at once, and how often before somebody reads them.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES: usize = 4;

/// A piece of the archive, or its end. Without an end nobody wants the rest any longer.
type Piece = Option<io::Result<Vec<u8>>>;

/// Lets `work` read `archive` on a thread of its own.
pub(super) async fn through<T: Send + 'static>(
    mut archive: impl AsyncRead + Unpin,
    work: impl FnOnce(Pieces, &AtomicBool) -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let (sender, receiver) = channel::<Piece>(PIECES);
    let stop = Stop::default();
    let stopped = Arc::clone(&stop.0);
    let pieces = Pieces {
        receiver,
        piece: Vec::new(),
        at: 0,
        ended: false,
    };
    let mut working = tokio::task::spawn_blocking(move || work(pieces, &stopped));
    let feeding = async {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            // What is there, not as much as fits: the rest may never come.
            let piece = match archive.read_buf(&mut piece).await {
                Ok(0) => None,
                Ok(_) => Some(Ok(piece)),
                Err(error) => Some(Err(error)),
            };
            let last = !matches!(piece, Some(Ok(_)));
            if sender.send(piece).await.is_err() || last {
                return;
            }
        }
    };
    let done = tokio::select! {
        // It can be over before the archive is: there was something wrong with it.
        done = &mut working => done,
        () = feeding => working.await,
    };
    done.unwrap_or_else(|_| Err(ArchiveError::Read(io::ErrorKind::Interrupted.into())))
}

/// Tells the thread to stop when it is dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What arrives, for a thread.
pub(super) struct Pieces {
    receiver: Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => (self.piece, self.at) = (piece?, 0),
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let rest = &self.piece[self.at..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.at += read;
        Ok(read)
    }
}
