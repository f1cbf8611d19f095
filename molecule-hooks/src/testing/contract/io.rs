//! Finds input and output where there must be none.

use std::net::{Ipv4Addr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tracing::Dispatch;

use super::folder::Folder;

/// A file and a port that nobody has a reason to touch.
///
/// Reads and writes are counted by the operating system, for the one thread that looks
/// (on Linux; elsewhere only connections are seen). A question for the mere existence of
/// a file stays unseen.
pub(super) struct Trap {
    listener: Option<TcpListener>,
    folder: Option<Folder>,
}

impl Trap {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok();
        let listener = listener.filter(|listener| listener.set_nonblocking(true).is_ok());
        let folder = Folder::new().ok();
        let folder = folder.filter(|folder| std::fs::write(folder.0.join("file"), "text").is_ok());
        Self { listener, folder }
    }

    /// Texts that lead into the trap.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let address = self.listener.as_ref().map(TcpListener::local_addr);
        if let Some(Ok(address)) = address {
            texts.extend([address.to_string(), format!("http://{address}/")]);
        }
        if let Some(folder) = &self.folder {
            texts.push(folder.0.join("file").to_string_lossy().into_owned());
        }
        texts
    }

    /// What `look` did, if it did anything. It runs twice, because the first run may
    /// set up something of the language or the C library.
    pub(super) fn spring(&self, look: impl Fn() + Sync) -> Option<&'static str> {
        let transfers = transfers_of(&look).min(transfers_of(&look));
        let mut connections = 0;
        while self.listener.as_ref().is_some_and(|it| it.accept().is_ok()) {
            connections += 1;
        }
        match (connections, transfers) {
            (0, 0) => None,
            (0, _) => Some("reads or writes"),
            _ => Some("connects"),
        }
    }
}

/// How often `look` reads or writes. Zero where nobody counts, and for one that panics:
/// its message is output, but not its own.
fn transfers_of(look: &(impl Fn() + Sync)) -> u64 {
    let counted = || {
        let first = transfers();
        let second = transfers();
        let looked = catch_unwind(AssertUnwindSafe(look));
        let third = transfers();
        let (first, second, third) = (first?, second?, third?);
        looked.ok()?;
        // Asking is a read itself.
        Some((third - second).saturating_sub(second - first))
    };
    // A log of the test's own would be output too.
    let quiet = || tracing::dispatcher::with_default(&Dispatch::none(), counted);
    let counted = thread::scope(|scope| scope.spawn(quiet).join());
    counted.ok().flatten().unwrap_or_default()
}

/// Reads and writes of this thread so far.
fn transfers() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    let count = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(count("syscr:")? + count("syscw:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_connections_are_seen_and_work_is_not() {
        let trap = Trap::new();
        let texts = trap.texts();
        assert_eq!(texts.len(), 3, "{texts:?}");
        let work = || drop((0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(trap.spring(work), None);
        let connect = || drop(std::net::TcpStream::connect(&texts[0]));
        assert_eq!(trap.spring(connect), Some("connects"));
        let panics = || panic!("on purpose");
        assert_eq!(trap.spring(panics), None);
        if transfers().is_some() {
            let read = || drop(std::fs::read(&texts[2]));
            assert_eq!(trap.spring(read), Some("reads or writes"));
        }
    }
}
