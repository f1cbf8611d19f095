//! The container image of the echo agent, made by the repository's script.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::time::timeout;

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../scripts/echo-agent-image"
);
/// The first run compiles the agent once more, as a static binary.
const BUILD_TIMEOUT: Duration = Duration::from_secs(600);
const LOGS_TIMEOUT: Duration = Duration::from_secs(10);

/// Builds the image, unless it is up to date, and returns its tag.
pub(crate) async fn build() -> anyhow::Result<String> {
    if !Path::new(SCRIPT).is_file() {
        bail!("--docker needs a checkout of the repository: scripts/echo-agent-image is missing");
    }
    let output = run(Command::new(SCRIPT), BUILD_TIMEOUT)
        .await
        .context("the image of the echo agent cannot be built")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().last().map(str::trim) {
        Some(tag) if output.status.success() && !tag.is_empty() => Ok(tag.to_owned()),
        _ => {
            // The script's last words name the reason, for example a missing daemon.
            let why = String::from_utf8_lossy(&output.stderr);
            bail!(
                "the image of the echo agent cannot be built:\n{}",
                why.trim_end()
            )
        }
    }
}

/// What the agent of this workspace wrote, if the daemon still knows it.
pub(crate) async fn logs(workspace: &str) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new("docker");
    command.arg("logs").arg(format!("ws-{workspace}"));
    let mut output = run(command, LOGS_TIMEOUT).await?;
    if !output.status.success() {
        bail!("there is no container");
    }
    output.stdout.append(&mut output.stderr);
    Ok(output.stdout)
}

async fn run(mut command: Command, limit: Duration) -> anyhow::Result<std::process::Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            bail!("a program is missing from the PATH: install the Docker CLI (and bash)")
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => bail!("no answer within {} s", limit.as_secs()),
    }
}
