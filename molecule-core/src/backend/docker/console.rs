//! What a workspace printed: the end of its container's log.

use async_trait::async_trait;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;

use super::daemon::{CallError, Daemon};
use super::objects::{self, Found};
use super::{DockerBackend, names};
use crate::backend::scrub::Scrubber;
use crate::backend::{BackendError, Console, InstanceRef, MAX_CONSOLE_BYTES};

const OPERATION: &str = "read console";
/// Entries that are asked for first. The daemon cuts lines into entries of 16 KiB
/// at most, so that this many always fit into what one answer may have.
const FEW: usize = 1_000;
/// Entries that are asked for when the few were short.
const MANY: usize = 20_000;

#[async_trait]
impl Console for DockerBackend {
    async fn read(&self, instance: &InstanceRef) -> Result<String, BackendError> {
        let failed = |error: CallError| error.into_backend(OPERATION, &Scrubber::plain());
        let daemon = &self.inner.daemon;
        let workspace = instance.workspace_id;
        for name in names::containers(workspace) {
            match objects::find(daemon, &name, &self.inner.instance)
                .await
                .map_err(failed)?
            {
                Found::Ours(id, _) => return tail(daemon, &id).await.map_err(failed),
                Found::Foreign if name == names::container(workspace) => {
                    return Err(BackendError::Failed {
                        operation: OPERATION,
                        reason: "a container of this name belongs to another server".to_owned(),
                    });
                }
                Found::Foreign | Found::Nothing => {}
            }
        }
        Ok(String::new())
    }
}

/// The end of a log: few entries, and more of them if those did not fill a console.
async fn tail(daemon: &Daemon, container: &str) -> Result<String, CallError> {
    let few = match read(daemon, container, FEW).await {
        Ok(few) => few,
        // Removed just now.
        Err(error) if error.is_container_missing() => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if few.is_whole || few.bytes.len() > MAX_CONSOLE_BYTES {
        return Ok(few.text());
    }
    // Long lines further up can make this too much for one answer.
    Ok(match read(daemon, container, MANY).await {
        Ok(many) => many.text(),
        Err(_) => few.text(),
    })
}

/// The end of a log as it was read.
struct Tail {
    /// No more than twice what a console shows.
    bytes: Vec<u8>,
    /// True when nothing stands before it.
    is_whole: bool,
}

async fn read(daemon: &Daemon, container: &str, entries: usize) -> Result<Tail, CallError> {
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail(&entries.to_string())
        .build();
    daemon
        .call(|client| async move {
            let mut log = client.logs(container, Some(options));
            let (mut bytes, mut seen) = (Vec::new(), 0);
            while let Some(entry) = log.next().await {
                bytes.extend_from_slice(&entry?.into_bytes());
                seen += 1;
                if bytes.len() > 2 * MAX_CONSOLE_BYTES {
                    // One byte more than is shown tells the caller that there was more.
                    bytes.drain(..bytes.len() - MAX_CONSOLE_BYTES - 1);
                }
            }
            Ok(Tail {
                bytes,
                is_whole: seen < entries,
            })
        })
        .await
}

impl Tail {
    fn text(mut self) -> String {
        if !self.is_whole && self.bytes.len() <= MAX_CONSOLE_BYTES {
            // It may begin within a line that the daemon cut into entries. Of a
            // longer one the caller leaves the first line out.
            let first = self.bytes.iter().position(|byte| *byte == b'\n');
            self.bytes
                .drain(..first.map_or(self.bytes.len(), |end| end + 1));
        }
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_cut_begins_with_a_whole_line() {
        let tail = |text: &str, is_whole| Tail {
            bytes: text.as_bytes().to_vec(),
            is_whole,
        };
        assert_eq!(tail("one\ntwo\n", true).text(), "one\ntwo\n");
        assert_eq!(tail("f a line\ntwo\n", false).text(), "two\n");
        assert_eq!(tail("f a line", false).text(), "");
        let long = "x".repeat(MAX_CONSOLE_BYTES + 1);
        assert_eq!(tail(&long, false).text().len(), long.len());
    }
}
