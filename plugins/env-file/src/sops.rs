//! Decrypts a file with the `sops` program.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use molecule_hooks::{HookError, Secret, tracing};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::parse::MAX_FILE_BYTES;

/// What it prints on the side is read up to here, and only measured.
const MAX_STDERR_BYTES: u64 = 64 * 1024;

/// How `sops` is run.
pub(crate) struct Sops {
    /// Its name, to be found on the `PATH` below, or its path.
    pub(crate) program: String,
    /// All it sees of an environment: never that of the server.
    pub(crate) env: BTreeMap<String, Secret>,
    pub(crate) timeout: Duration,
}

impl Sops {
    /// Decrypts a dotenv file. Dropping the future ends the program.
    pub(crate) async fn decrypt(&self, encrypted: &[u8]) -> Result<Vec<u8>, HookError> {
        let run = tokio::time::timeout(self.timeout, self.run(encrypted));
        run.await.unwrap_or_else(|_| {
            let secs = self.timeout.as_secs();
            Err(HookError::transient(format!(
                "sops did not end within {secs} seconds"
            )))
        })
    }

    async fn run(&self, encrypted: &[u8]) -> Result<Vec<u8>, HookError> {
        // The file comes by standard input, so that what was checked is what is
        // decrypted, and no path stands in the list of processes.
        let mut command = Command::new(&self.program);
        command
            .args([
                "--decrypt",
                "--input-type",
                "dotenv",
                "--output-type",
                "dotenv",
            ])
            .arg("/dev/stdin")
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value.expose())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| self.not_started(error))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(HookError::transient("sops was started without its pipes"));
        };
        let write = async move {
            // It may end without reading everything; its exit code tells.
            let _ = stdin.write_all(encrypted).await;
        };
        let (_, output, errors) = tokio::join!(
            write,
            read(stdout, MAX_FILE_BYTES as u64),
            read(stderr, MAX_STDERR_BYTES)
        );
        let broken = |error| HookError::transient("reading from sops failed").with_source(error);
        let (output, errors) = (output.map_err(broken)?, errors.map_err(broken)?);
        let Some(output) = output else {
            return Err(HookError::permanent(format!(
                "sops wrote more than {MAX_FILE_BYTES} bytes"
            )));
        };
        let status = child.wait().await.map_err(broken)?;
        if status.success() {
            return Ok(output);
        }
        // Its messages name keys, paths and accounts, so they are not repeated.
        let bytes = errors.map_or(MAX_STDERR_BYTES as usize, |errors| errors.len());
        tracing::debug!(stderr_bytes = bytes, "env-file: sops failed");
        let how = match status.code() {
            Some(code) => format!("with exit code {code}"),
            None => "by a signal".to_owned(),
        };
        Err(HookError::permanent(format!(
            "sops ended {how}; run `sops --decrypt` on the file as the server's user, with the variables of sops_env, to see why"
        )))
    }

    fn not_started(&self, error: std::io::Error) -> HookError {
        match error.kind() {
            std::io::ErrorKind::NotFound => HookError::permanent(format!(
                "the file is encrypted with SOPS, and there is no program {:?}; install sops, or set sops_program to its path",
                self.program
            )),
            std::io::ErrorKind::PermissionDenied => HookError::permanent(format!(
                "the file is encrypted with SOPS, and the program {:?} may not be run",
                self.program
            )),
            _ => HookError::transient("sops could not be started").with_source(error),
        }
    }
}

/// None when there was more than `most`; the pipe is then closed on the writer.
async fn read(pipe: impl AsyncRead + Unpin, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    pipe.take(most + 1).read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}
