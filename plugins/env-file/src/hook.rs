use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, HookErrorKind, WorkspaceContext,
    async_trait, tracing,
};

use crate::config::{Config, Settings};
use crate::layers::{self, Layer};
use crate::open::{Found, OpenError};
use crate::parse::{self, Lines};

/// Shorter than the server's usual deadline for a hook (10 s), so that the error
/// tells what was slow.
const PATIENCE: Duration = Duration::from_secs(9);

struct EnvFile {
    settings: Settings,
    /// Whether the log was told that others can read the common file.
    told: AtomicBool,
}

pub(crate) fn build(config: Config, _: &BuildContext) -> BuildResult {
    Ok(config.resolve()?.map(|settings| {
        let told = AtomicBool::new(false);
        Arc::new(EnvFile { settings, told }) as _
    }))
}

#[async_trait]
impl EnvMutator for EnvFile {
    fn name(&self) -> &str {
        "env-file"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let lines = tokio::time::timeout(PATIENCE, self.read_all(workspace))
            .await
            .unwrap_or_else(|_| Err(HookError::transient("env-file: reading took too long")))?;
        for (name, value) in &lines {
            // Taken back by a later file; what others set is not ours to remove.
            let Some(value) = value else { continue };
            env.set_secret(name, value.expose())?;
        }
        tracing::debug!(workspace.id = %workspace.id, variables = lines.len(), "env-file: read");
        Ok(())
    }
}

impl EnvFile {
    async fn read_all(&self, workspace: &WorkspaceContext) -> Result<Lines, HookError> {
        let layers = layers::of(&self.settings, workspace);
        let read = tokio::task::spawn_blocking(move || read(&layers)).await;
        let files = read.map_err(|_| HookError::transient("env-file: reading was interrupted"))?;
        let mut all = Lines::new();
        for (label, file) in files {
            let found = match file {
                Ok(found) => found,
                Err(OpenError::Io(error)) => {
                    let text = format!("env-file: {label} cannot be read");
                    return Err(HookError::permanent(text).with_source(error));
                }
                Err(problem) => return Err(refused(label, &problem)),
            };
            // What SOPS encrypted may lie anywhere.
            let bytes = match parse::is_encrypted(&found.bytes) {
                true => self.decrypt(label, &found.bytes).await?,
                false => {
                    if found.is_exposed && !self.told.swap(true, Ordering::Relaxed) {
                        tracing::warn!("env-file: {label} can be read by others than its owner");
                    }
                    found.bytes
                }
            };
            let lines = parse::parse(&bytes)
                .map_err(|problem| HookError::permanent(format!("env-file: {label}: {problem}")))?;
            all.extend(lines);
        }
        Ok(all)
    }

    async fn decrypt(&self, label: &str, bytes: &[u8]) -> Result<Vec<u8>, HookError> {
        let decrypted = self.settings.sops.decrypt(bytes).await;
        decrypted.map_err(|error| {
            let text = format!("env-file: {label}: {error}");
            match error.kind() {
                HookErrorKind::Transient => HookError::transient(text),
                _ => HookError::permanent(text),
            }
        })
    }
}

type File = (&'static str, Result<Found, OpenError>);

fn read(layers: &[Layer]) -> Vec<File> {
    let found = layers.iter().filter_map(|layer| {
        let read = layer.read().transpose()?;
        Some((layer.label, read))
    });
    found.collect()
}

fn refused(label: &str, problem: &OpenError) -> HookError {
    HookError::permanent(format!("env-file: {label} {problem}"))
}
