//! One command that boots a real workspace and shows what happened.
//!
//! ```text
//! cargo run -p quickstart              # a child process is the workspace
//! cargo run -p quickstart -- --docker  # a container is the workspace
//! cargo run -p quickstart -- --exit    # end after the transcript, with 0 or 1
//! ```
//!
//! The server is the one every deployment has: SQLite, an administrator token,
//! encrypted secrets and two hooks. Only the agent is special: without `--docker`
//! it is this very binary, started again as `quickstart agent`.
#![cfg_attr(not(test), deny(unused_crate_dependencies))]

mod client;
mod demo;
mod home;
mod image;
mod setup;
mod transcript;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

// Hooks in this build:
use env_mutator as _;
use token_provider as _;

// What this binary is made of, as build.rs wrote it down; the log of the server says it.
molecule_core::build_info!();

use crate::demo::Demo;
use crate::setup::Choices;

/// The word after which this binary is the agent instead of the server.
const AGENT: &str = "agent";

/// Boots a Molecule server with one workspace and shows what happened.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Run the workspace in a container, made from the echo agent of this
    /// repository; nothing is pulled
    #[arg(long)]
    docker: bool,
    /// End after the transcript, with 0 if everything worked and 1 if not
    #[arg(long)]
    exit: bool,
    /// Port to listen on; 8080 by default, or a free one when that is taken
    #[arg(long)]
    port: Option<u16>,
    /// Folder for the database, kept afterwards; a temporary one by default
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Before anything else: the agent is plain blocking code and wants no runtime.
    if std::env::args_os().nth(1).is_some_and(|word| word == AGENT) {
        return molecule_echo_agent::run_from_env(std::env::args().skip(2));
    }
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(quickstart(args)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Like `eprintln!`, but a closed standard error is no reason to panic.
            let _ = writeln!(std::io::stderr(), "✗ {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn quickstart(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let choices = Choices {
        docker: args.docker,
        port: args.port,
        data_dir: args.data_dir,
    };
    let demo = tokio::select! {
        started = Demo::start(choices) => started?,
        () = signals.next() => anyhow::bail!("interrupted"),
    };
    let (mut outcome, interrupted) = tokio::select! {
        outcome = demo.show() => (outcome, false),
        () = signals.next() => (Err(anyhow::anyhow!("interrupted")), true),
    };
    if outcome.is_ok() && !args.exit {
        outcome = demo.say_how_to_go_on();
        if outcome.is_ok() {
            signals.next().await;
        }
    }
    if outcome.is_err() && !interrupted {
        // What follows takes the agent's log away with the workspace.
        demo.keep_agent_log().await;
    }
    let cleaned = tokio::select! {
        cleaned = demo.clean_up() => cleaned,
        () = signals.next() => Err(anyhow::anyhow!(
            "second signal: left at once, the workspace may still run"
        )),
    };
    // The first thing that went wrong is the one to read.
    outcome.and(cleaned)
}

/// Ctrl-C and the polite kill.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be handled");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
