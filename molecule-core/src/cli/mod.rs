//! The command line every deployment has.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it did not work (start-up failed, `doctor` found a problem) |
//! | 2 | the command line is wrong |
//! | 78 | the configuration is wrong; every problem was printed |

mod build_info;
mod doctor;
mod hooks;
mod secrets;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use molecule_hooks::__private::{BUILD_THREAD, did_you_mean};
use molecule_hooks::{HookDescriptor, Registry};

use crate::build_info::hook_crates;
use crate::config::{Config, ConfigError, Sources, example};
use crate::server::StartError;
use crate::{app, store};

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIG: u8 = 78;
/// What blocking calls get to end after the server did.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Parser)]
#[command(
    about = "A Molecule server: provisions and keeps agent workspaces",
    version
)]
struct Args {
    /// Configuration file; by default MOLECULE_CONFIG, else molecule.yaml if there
    /// is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default).
    Serve,
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// List the hooks linked into this binary.
    Hooks {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what this binary is made of: versions, sources, toolchain, hooks.
    BuildInfo {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bring the database up to date and exit.
    Migrate,
    /// Check database, backend, hooks and disk, and say what to do.
    Doctor,
    /// Print the OpenAPI document.
    Openapi,
    /// Look at stored secrets, or encrypt them again with the current key.
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
    },
}

#[derive(Subcommand)]
enum SecretsCommand {
    /// Encrypt every stored value that is not under the current key again. Servers
    /// may run meanwhile; a rotation that was stopped is simply started again.
    Rotate {
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Count the stored values by the key they are under.
    Status,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check everything that start-up would check.
    Check,
    /// Print a commented configuration file for this binary.
    Example,
}

/// Parses the command line of this process and does what it says.
///
/// Call it from `main` of a deployment, beside one `use my_hook as _;` per hook
/// crate. It starts its own tokio runtime.
pub fn main() -> ExitCode {
    let args = Args::parse();
    keep_panics_of_builds_back();
    match dispatch(args) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}

/// What a build function panics with is one of the problems that are listed, where
/// secrets are masked. Standard error would show it as it is.
fn keep_panics_of_builds_back() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let is_build = |name: &str| name.starts_with(BUILD_THREAD);
        if !thread.name().is_some_and(is_build) {
            others(panic);
        }
    }));
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Start(StartError),
    #[error("{0}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(BAD_CONFIG),
            Self::Start(_) | Self::Other(_) => ExitCode::FAILURE,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => Self::Config(error),
            error => Self::Start(error),
        }
    }
}

fn dispatch(args: Args) -> Result<ExitCode, Failure> {
    let file = args.config;
    match args.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(file),
        Command::Config {
            command: ConfigCommand::Check,
        } => check(file),
        Command::Config {
            command: ConfigCommand::Example,
        } => {
            print!("{}", example());
            Ok(ExitCode::SUCCESS)
        }
        Command::Hooks { json } => {
            hooks::print(json);
            Ok(ExitCode::SUCCESS)
        }
        Command::BuildInfo { json } => {
            build_info::print(json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate => migrate(file),
        Command::Doctor => doctor(file),
        Command::Openapi => {
            let document = app::openapi()
                .to_pretty_json()
                .map_err(anyhow::Error::from)?;
            println!("{document}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Secrets { command } => secrets::run(file, command),
    }
}

/// What start-up, `config check` and `doctor` all do first. Problems of the
/// configuration and of the hooks are reported together.
fn load(file: Option<PathBuf>) -> Result<(Config, Registry), Failure> {
    let (config, mut problems) = Config::with_problems(Sources::of_process(file));
    let linked = HookDescriptor::linked();
    for name in config.hooks.timeouts_secs.keys() {
        if !linked.iter().any(|hook| hook.name == name.as_str()) {
            let meant = did_you_mean(name, linked.iter().map(|hook| hook.name));
            problems.push(format!(
                "hooks.timeouts_secs.{name}: no hook of that name is linked{meant}"
            ));
        }
    }
    let mut hooks = config.hooks_config();
    // What is a dependency and not linked lacks one line only.
    hooks.hook_crates = hook_crates();
    match Registry::from_linked(&hooks) {
        Ok(registry) if problems.is_empty() => Ok((config, registry)),
        Ok(_) => Err(ConfigError { problems }.into()),
        Err(error) => {
            problems.extend(error.problems);
            Err(ConfigError { problems }.into())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(error.into()))
}

fn serve(file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let (config, registry) = load(file)?;
    let runtime = runtime()?;
    let ran = runtime.block_on(crate::run(config, registry));
    // The server has had its time: a thread that is stuck in a call must not hold
    // the process up.
    runtime.shutdown_timeout(LEAVE_TIMEOUT);
    ran?;
    Ok(ExitCode::SUCCESS)
}

fn check(file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    // Building a hook may want a runtime, as at start-up.
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let (config, registry) = load(file)?;
    println!("configuration ok ({})", config.environment.as_str());
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    println!("hooks: [{}]", registry.names().join(", "));
    for name in registry.skipped() {
        println!("hook {name} is linked but not configured; it will be skipped");
    }
    Ok(ExitCode::SUCCESS)
}

fn migrate(file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let config = Config::from_sources(Sources::of_process(file))?;
    runtime()?.block_on(async {
        let db = store::connect(&config).await.map_err(StartError::from)?;
        let pending = store::pending(&db).await;
        store::migrate(&db).await.map_err(StartError::from)?;
        println!("{}: {pending} migration(s) applied", db.engine());
        db.close().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn doctor(file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let loaded = load(file);
    match runtime.block_on(doctor::examine(loaded)) {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}
