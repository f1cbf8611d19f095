//! Running a program that must not outlive its purpose.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Bytes of output that are kept: the last ones.
const KEPT_BYTES: usize = 4096;
/// How often a folder that a program fills is measured.
const MEASURE_PAUSE: Duration = Duration::from_millis(500);

/// What a program may use up.
pub(crate) struct Bounds {
    /// Until it must have ended.
    pub(crate) time: Duration,
    /// A folder that it fills, and what may be in there.
    pub(crate) folder: Option<(PathBuf, Room)>,
    /// What is kept of its standard output.
    pub(crate) output: Output,
}

impl Bounds {
    /// A time, no folder, and the end of the output.
    pub(crate) fn within(time: Duration) -> Self {
        Self {
            time,
            folder: None,
            output: Output::End,
        }
    }

    /// The same for a program that fills a folder.
    pub(crate) fn filling(self, folder: &Path, room: Room) -> Self {
        Self {
            folder: Some((folder.to_owned(), room)),
            ..self
        }
    }

    /// The same with another part of the output.
    pub(crate) fn keep(self, output: Output) -> Self {
        Self { output, ..self }
    }
}

/// What is kept of what a program writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    /// The last few thousand bytes.
    End,
    /// Everything; the program is ended when it writes more bytes than this.
    Whole(usize),
}

/// What may be in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// A program that ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What was to be kept of its standard output.
    pub(crate) output: Vec<u8>,
    /// The same for its error output. May hold anything.
    pub(crate) errors: String,
}

impl Ended {
    /// The output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It could not be started, or not be waited for.
    Io(io::Error),
    TimedOut,
    Cancelled,
    /// It wrote more than there is room for.
    NoRoom,
    /// It wrote more to its standard output than is read.
    TooMuchOutput,
}

/// Runs a program to its end in a process group of its own. Whatever ends the run
/// early, also dropping it, kills the whole group.
pub(crate) async fn run(
    mut command: Command,
    bounds: Bounds,
    cancel: &CancellationToken,
) -> Result<Ended, RunError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(RunError::Io)?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = {
        // The pipes close once the last of the group is gone; only then it is over.
        let running = async {
            tokio::try_join!(
                kept(stdout, bounds.output),
                async { Ok(String::from_utf8_lossy(&tail(stderr).await).into_owned()) },
                async { child.wait().await.map_err(RunError::Io) },
            )
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RunError::Cancelled),
            () = sleep(bounds.time) => Err(RunError::TimedOut),
            () = overfilled(bounds.folder) => Err(RunError::NoRoom),
            ended = running => ended.map(|(output, errors, status)| Ended {
                status,
                output,
                errors,
            }),
        }
    };
    if ended.is_ok() {
        group.forget();
    } else {
        drop(group);
        // Reaps it. A killed process needs no patience.
        let _ = child.kill().await;
    }
    ended
}

/// Kills what is left of a process group when it is dropped.
struct Group(Option<Pid>);

impl Group {
    /// The number may belong to somebody else from now on.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads to the end and keeps what is wanted.
async fn kept(from: Option<impl AsyncRead + Unpin>, output: Output) -> Result<Vec<u8>, RunError> {
    let (most, from) = match (output, from) {
        (Output::Whole(most), Some(from)) => (most, from),
        (_, from) => return Ok(tail(from).await),
    };
    let mut all = Vec::new();
    let limit = most as u64 + 1;
    let read = from.take(limit).read_to_end(&mut all).await;
    read.map_err(RunError::Io)?;
    match all.len() > most {
        true => Err(RunError::TooMuchOutput),
        false => Ok(all),
    }
}

/// Reads to the end and keeps the last bytes.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 2048];
    if let Some(mut from) = from {
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..read]);
            let excess = kept.len().saturating_sub(KEPT_BYTES);
            kept.drain(..excess);
        }
    }
    kept
}

/// Ends once there is more in a folder than there is room for; without a folder,
/// never.
async fn overfilled(folder: Option<(PathBuf, Room)>) {
    let Some((folder, room)) = folder else {
        return std::future::pending().await;
    };
    loop {
        sleep(MEASURE_PAUSE).await;
        let folder = folder.clone();
        let measured = tokio::task::spawn_blocking(move || has_room(&folder, room));
        if matches!(measured.await, Ok(false)) {
            return;
        }
    }
}

/// Whether what is in a folder is within `room`. What vanishes meanwhile does not
/// count.
pub(crate) fn has_room(folder: &Path, room: Room) -> bool {
    let (mut bytes, mut entries) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(children) = std::fs::read_dir(folder) else {
            continue;
        };
        for child in children.flatten() {
            // Does not follow links.
            let Ok(metadata) = child.metadata() else {
                continue;
            };
            bytes += metadata.len();
            entries += 1;
            if bytes > room.bytes || entries > room.entries {
                return false;
            }
            if metadata.is_dir() {
                folders.push(child.path());
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const ROOM: Room = Room {
        bytes: 1024 * 1024,
        entries: 100,
    };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn within(time: Duration) -> Bounds {
        Bounds::within(time)
    }

    /// Whether the process whose number the file holds still runs.
    fn runs(file: &Path) -> bool {
        let pid = std::fs::read_to_string(file).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !what() {
            assert!(Instant::now() < deadline, "it did not happen");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn the_end_of_the_output_and_the_code_are_told() {
        let command = shell("seq 1 100000; echo wrong >&2; exit 3");
        let bound = within(Duration::from_secs(60));
        let ended = run(command, bound, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.text().ends_with("99999\n100000\n") && ended.output.len() <= KEPT_BYTES);
        assert_eq!(ended.errors, "wrong\n");
    }

    #[tokio::test]
    async fn a_cancelled_program_goes_with_everything_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!(
            "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait",
            file.display()
        );
        let cancel = CancellationToken::new();
        let bound = within(Duration::from_secs(600));
        let running = tokio::spawn({
            let cancel = cancel.clone();
            async move { run(shell(&script), bound, &cancel).await }
        });
        until(|| file.exists()).await;
        assert!(runs(&file));
        cancel.cancel();
        assert!(matches!(running.await.unwrap(), Err(RunError::Cancelled)));
        until(|| !runs(&file)).await;
    }

    #[tokio::test]
    async fn a_program_that_nobody_waits_for_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!(
            "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait",
            file.display()
        );
        let bound = within(Duration::from_secs(600));
        let running =
            tokio::spawn(
                async move { run(shell(&script), bound, &CancellationToken::new()).await },
            );
        until(|| file.exists()).await;
        running.abort();
        until(|| !runs(&file)).await;
    }

    #[tokio::test]
    async fn a_program_ends_with_its_time() {
        let bound = within(Duration::from_millis(50));
        let ended = run(shell("sleep 600"), bound, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(RunError::TimedOut)));
    }

    #[tokio::test]
    async fn a_program_that_fills_its_folder_ends() {
        let dir = tempfile::tempdir().unwrap();
        for (room, script) in [
            (ROOM, "head -c 2000000 /dev/zero > $0/file; sleep 600"),
            (
                Room { entries: 3, ..ROOM },
                "mkdir -p $0/a/b/c/d; sleep 600",
            ),
        ] {
            let mut command = shell(script);
            command.arg(dir.path());
            let bounds = within(Duration::from_secs(600)).filling(dir.path(), room);
            let ended = run(command, bounds, &CancellationToken::new()).await;
            assert!(matches!(ended, Err(RunError::NoRoom)), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn all_of_an_output_is_kept_as_long_as_it_is_short_enough() {
        for (most, whole) in [
            (600_000, true),
            (588_895, true),
            (588_894, false),
            (10, false),
        ] {
            let bound = within(Duration::from_secs(60)).keep(Output::Whole(most));
            let command = shell("seq 1 100000; exec sleep 0");
            let ended = run(command, bound, &CancellationToken::new()).await;
            match ended {
                Ok(ended) => assert!(whole && ended.output.len() == 588_895, "{most}"),
                Err(RunError::TooMuchOutput) => assert!(!whole, "{most}"),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_never_stops_talking_is_ended() {
        let bound = within(Duration::from_secs(600)).keep(Output::Whole(1024));
        let ended = run(shell("yes; sleep 600"), bound, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(RunError::TooMuchOutput)), "{ended:?}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_says_so() {
        let ended = run(
            Command::new("/nonexistent/program"),
            within(Duration::from_secs(60)),
            &CancellationToken::new(),
        )
        .await;
        assert!(
            matches!(ended, Err(RunError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
    }
}
