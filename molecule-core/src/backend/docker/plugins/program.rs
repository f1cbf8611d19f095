//! Having an operation done inside a container: by our own program, else by a shell.

use std::time::Duration;

use molecule_hooks::PluginName;

use super::super::Inner;
use super::super::archive::ArchiveError;
use super::super::container::AGENT_USER;
use super::super::container::CONFIG_PATH;
use super::super::daemon::CallError;
use super::super::exec::{self, Bounds, Ended, Exec, ExecError};
use super::super::upload::{self, Sent};
use super::staged::{Bring, HELPER, Replacement, Shrunk, helper_entry, helper_path};
use super::{failed, step_failed};
use crate::backend::DeliveryError;
use crate::backend::plugins::Told;
use crate::backend::scrub::Scrubber;

/// Tried in this order.
const SHELLS: [&str; 2] = ["/bin/sh", "/bin/bash"];
/// Does what the program does.
pub(super) const SCRIPT: &str = include_str!("script.sh");
/// After so many seconds the program ends itself, so that nothing happens any more that
/// nobody waits for.
const PROGRAM_SECONDS: u64 = 240;
const EXEC_TIMEOUT: Duration = Duration::from_secs(PROGRAM_SECONDS + 10);
/// A list of plugins with their manifests is the most that is ever said.
const MAX_SAID_BYTES: usize = 12 * 1024 * 1024;
const MAX_COMPLAINT_BYTES: usize = 4 * 1024;

/// What is to be done. Names come with it, never text of a script.
pub(super) enum Operation {
    Swap {
        name: PluginName,
        cutoff: String,
        entries: u64,
        bytes: u64,
    },
    Remove {
        name: PluginName,
        skills: Vec<PluginName>,
    },
    Repair {
        cutoff: String,
    },
    /// Deletes entries of `.staging`.
    Discard {
        entries: Vec<String>,
    },
    List,
    /// Moves an entry of `.staging` over the memory file, if that still has so many
    /// bytes. For the shell only: the program edits the file itself.
    Memory {
        entry: String,
        bytes: u64,
    },
}

impl Operation {
    fn arguments(&self, suffix: &str) -> Vec<String> {
        let mut arguments = Vec::new();
        match self {
            Self::Swap {
                name,
                cutoff,
                entries,
                bytes,
            } => {
                arguments.push("swap".to_owned());
                arguments.push(CONFIG_PATH.to_owned());
                arguments.extend([name.to_string(), suffix.to_owned(), cutoff.clone()]);
                arguments.extend([entries.to_string(), bytes.to_string()]);
            }
            Self::Remove { name, skills } => {
                arguments.push("remove".to_owned());
                arguments.push(CONFIG_PATH.to_owned());
                arguments.extend([name.to_string(), suffix.to_owned()]);
                arguments.extend(skills.iter().map(ToString::to_string));
            }
            Self::Repair { cutoff } => {
                arguments.push("repair".to_owned());
                arguments.push(CONFIG_PATH.to_owned());
                arguments.push(cutoff.clone());
            }
            Self::Discard { entries } => {
                arguments.push("discard".to_owned());
                arguments.push(CONFIG_PATH.to_owned());
                arguments.extend(entries.iter().cloned());
            }
            Self::List => {
                arguments.push("list".to_owned());
                arguments.push(CONFIG_PATH.to_owned());
            }
            Self::Memory { entry, bytes } => {
                arguments.push("memory".to_owned());
                arguments.push(CONFIG_PATH.to_owned());
                arguments.extend([entry.clone(), bytes.to_string()]);
            }
        }
        arguments
    }
}

/// Why an operation was not done, and what became of it.
#[derive(Debug)]
pub(super) struct NotDone {
    pub(super) error: DeliveryError,
    pub(super) fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing ran.
    NeverBegan,
    /// It ended, and said which step failed.
    Failed,
    /// It ended before it could say anything, perhaps half-way.
    Died,
    /// It may still run: what it works on is not to be touched.
    MayGoOn,
}

impl Fate {
    fn of(self, error: DeliveryError) -> NotDone {
        NotDone { error, fate: self }
    }
}

impl From<DeliveryError> for NotDone {
    fn from(error: DeliveryError) -> Self {
        Fate::NeverBegan.of(error)
    }
}

impl From<NotDone> for DeliveryError {
    fn from(not_done: NotDone) -> Self {
        not_done.error
    }
}

/// How far an attempt came.
enum Attempt {
    Did(Told),
    /// Nothing ran, for this reason.
    NotRun(String),
}

/// Does things in one container.
pub(super) struct Program<'a> {
    inner: &'a Inner,
    container: &'a str,
    /// Of the change that is under way.
    suffix: &'a str,
}

impl<'a> Program<'a> {
    pub(super) fn new(inner: &'a Inner, container: &'a str, suffix: &'a str) -> Self {
        Self {
            inner,
            container,
            suffix,
        }
    }

    pub(super) fn suffix(&self) -> &str {
        self.suffix
    }

    /// Uploads the program and runs it.
    ///
    /// # Errors
    /// [`NotDone`].
    pub(super) async fn bring_and_run(&self, operation: Operation) -> Result<Told, NotDone> {
        let suffix = self.suffix.to_owned();
        let sent = match HELPER {
            Some(_) => Some(self.upload(Bring { suffix }).await),
            None => None,
        };
        let brought = match sent {
            Some(Ok((Ok(()), Ok(())))) => true,
            // On a full disk, for instance, a shell may still do.
            Some(Ok((_, Err(CallError::Status(..))))) | None => false,
            Some(Ok((written, Ok(())))) => return Err(unreadable(written).into()),
            Some(Ok((_, Err(error))) | Err(error)) => return Err(failed(error).into()),
        };
        self.run(operation, brought).await
    }

    /// Runs an operation; `brought` says whether the program is there.
    ///
    /// # Errors
    /// [`NotDone`]; with the step `run` when nothing in the image can do it.
    pub(super) async fn run(&self, operation: Operation, brought: bool) -> Result<Told, NotDone> {
        let arguments = operation.arguments(self.suffix);
        let mut why = "it is not part of this server".to_owned();
        if brought && HELPER.is_some() {
            let mut command = vec![format!("{CONFIG_PATH}/{}", helper_path(self.suffix))];
            command.push(PROGRAM_SECONDS.to_string());
            command.extend(arguments.iter().cloned());
            match self.attempt(command).await? {
                Attempt::Did(told) => return Ok(told),
                Attempt::NotRun(reason) => why = reason,
            }
            tracing::debug!(
                container = self.container,
                reason = why,
                "the helper program does not run there; trying a shell"
            );
        }
        for shell in SHELLS {
            let script = [shell, "-c", SCRIPT, "molecule-plugins"].map(str::to_owned);
            let mut command = Vec::from(script);
            command.push(helper_entry(self.suffix));
            command.push(PROGRAM_SECONDS.to_string());
            command.extend(arguments.iter().cloned());
            match self.attempt(command).await? {
                Attempt::Did(told) => return Ok(told),
                Attempt::NotRun(reason) => {
                    tracing::debug!(container = self.container, shell, reason, "no such shell");
                }
            }
        }
        Err(Fate::NeverBegan.of(DeliveryError::Step {
            step: "run",
            reason: format!(
                "the image has no shell, and the helper program cannot run there: {why}"
            ),
        }))
    }

    async fn attempt(&self, command: Vec<String>) -> Result<Attempt, NotDone> {
        let exec = Exec {
            container: self.container,
            user: AGENT_USER,
            directory: CONFIG_PATH,
            command,
        };
        let bounds = Bounds {
            time: EXEC_TIMEOUT,
            stdout: MAX_SAID_BYTES,
            stderr: MAX_COMPLAINT_BYTES,
        };
        let scrub = Scrubber::plain();
        let ended = match exec::run(&self.inner.daemon, exec, bounds).await {
            Ok(ended) => ended,
            Err(ExecError::NotRun(error)) => return Ok(Attempt::NotRun(error.text(&scrub))),
            Err(ExecError::Refused(error)) => return Err(step_failed("run", error).into()),
            Err(ExecError::Lost(error)) => return Err(Fate::MayGoOn.of(failed(error))),
        };
        if let Some(told) = Told::read(&ended.stdout) {
            return match told.outcome(ended.code) {
                Ok(()) => Ok(Attempt::Did(told)),
                Err(error) => {
                    self.complain(&ended);
                    // Only what reached its end knows which step it was.
                    let died = matches!(error, DeliveryError::Step { step: "run", .. });
                    let fate = if died { Fate::Died } else { Fate::Failed };
                    Err(fate.of(error))
                }
            };
        }
        let said = String::from_utf8_lossy(&ended.stdout);
        if ended.may_not_have_run() {
            return Ok(Attempt::NotRun(scrub.clean(&said)));
        }
        self.complain(&ended);
        Err(Fate::Died.of(DeliveryError::Step {
            step: "run",
            reason: format!("it ended with code {} and said nothing", ended.code),
        }))
    }

    /// What a script's tools say of their trouble helps an operator, and nobody else.
    fn complain(&self, ended: &Ended) {
        let said = String::from_utf8_lossy(&ended.stderr);
        if !said.trim().is_empty() {
            let said = Scrubber::plain().clean(said.trim());
            tracing::warn!(
                container = self.container,
                code = ended.code,
                said,
                "plugins"
            );
        }
    }

    /// Uploads something below the config folder.
    pub(super) async fn upload(
        &self,
        content: impl super::super::archive::Pack,
    ) -> Result<Sent, CallError> {
        upload::send(&self.inner.daemon, self.container, CONFIG_PATH, content).await
    }

    /// Uploads a file for `.staging`. False when it did not arrive.
    pub(super) async fn replace(&self, file: Replacement) -> bool {
        matches!(self.upload(file).await, Ok((Ok(()), Ok(()))))
    }

    /// Removes entries of `.staging`, by whatever works, as well as it works. The program
    /// is there as long as it did not begin.
    pub(super) async fn discard(&self, entries: Vec<String>, began: bool) {
        let ours = [entries.clone(), vec![helper_entry(self.suffix)]].concat();
        let operation = Operation::Discard { entries };
        let discarded = match began {
            true => self.bring_and_run(operation).await,
            false => self.run(operation, true).await,
        };
        if discarded.is_ok_and(|told| told.left.is_empty()) {
            return;
        }
        let shrunk = self.upload(Shrunk { entries: ours }).await;
        if !matches!(shrunk, Ok((Ok(()), Ok(())))) {
            tracing::warn!(
                container = self.container,
                suffix = self.suffix,
                "what was left of a plugin that could not be delivered stays until the next \
                 repair"
            );
        }
    }
}

/// For an archive that could not be written.
pub(super) fn unreadable(written: Result<(), ArchiveError>) -> DeliveryError {
    let reason = match written {
        Err(error) => error.to_string(),
        Ok(()) => ArchiveError::Abandoned.to_string(),
    };
    DeliveryError::Step {
        step: "stage",
        reason,
    }
}
