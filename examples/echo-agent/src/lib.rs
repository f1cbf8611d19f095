//! The smallest agent that speaks the workspace protocol.
//!
//! It reads `/configs/config.yaml` and `/configs/.auth_token`, registers with
//! the platform, sends heartbeats, and answers A2A `message/send` with what it
//! heard. As `git-credential` it hands git the live installation token.
//!
//! The crate is plain blocking code over `std`, so it links statically and can
//! be the only file of a container image. It is a library as well, so another
//! program can start itself again as the agent:
//!
//! ```no_run
//! # fn serve() -> std::process::ExitCode { std::process::ExitCode::SUCCESS }
//! fn main() -> std::process::ExitCode {
//!     let mut args = std::env::args().skip(1);
//!     match args.next().as_deref() {
//!         Some("agent") => molecule_echo_agent::run_from_env(args),
//!         _ => serve(),
//!     }
//! }
//! ```

mod a2a;
mod card;
mod config_file;
mod credentials;
mod git_credential;
mod http;
mod log;
mod plugins;
mod presence;
mod server;
mod settings;
mod status;
mod timestamp;

use std::process::ExitCode;
use std::sync::Arc;

use settings::{Env, Settings};

const USAGE: &str = "\
usage: echo-agent [serve]
       echo-agent git-credential get|store|erase

Without a subcommand the agent serves. Environment:
  WORKSPACE_ID           id of the workspace (required to serve)
  PLATFORM_URL           http:// URL of the platform (required to serve)
  WORKSPACE_CONFIG_PATH  folder of config.yaml and .auth_token (/configs)
  PORT                   port to listen on (8000)
  AGENT_URL              URL to register instead of the derived one
  HEARTBEAT_SECS         seconds between heartbeats (30)
  GIT_CREDENTIAL_HOST    hosts to serve besides github.com, comma separated
  GITHUB_TOKEN           git token to use when the platform gives none
  PLUGINS_DIR            folder of plugins that workspaces share (/plugins)
  PLUGIN_REQUIRE_COMPLETE_MARKER
                         off, warn or enforce (enforce)
";

/// The exit code of a wrong command line or a wrong environment.
const EXIT_USAGE: u8 = 2;

/// Runs the agent with the process environment.
///
/// `args` are the arguments after the program name. Without any, or with
/// `serve`, the call serves until the process is ended; it returns early only
/// when the environment is wrong or the port cannot be bound. With
/// `git-credential` it answers one request on stdin and returns.
pub fn run_from_env(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let env = Env::process();
    match words.as_slice() {
        [] | ["serve"] => serve(env),
        ["git-credential", operation] => git_credential::run(operation, &env),
        ["help" | "-h" | "--help"] => {
            log::to_stdout(USAGE);
            ExitCode::SUCCESS
        }
        _ => {
            log::to_stderr(USAGE);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Starts the HTTP server, then registers and beats for ever.
fn serve(env: Env) -> ExitCode {
    let settings = match Settings::from_env(&env) {
        Ok(settings) => settings,
        Err(problem) => {
            log::line(&problem);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let config = config_file::load(&settings.config_dir);
    let listener = match server::bind(&settings) {
        Ok(listener) => listener,
        Err(error) => {
            log::line(&format!("cannot listen: {}", error.kind()));
            return ExitCode::FAILURE;
        }
    };
    let port = listener
        .local_addr()
        .map_or(settings.listen_port(), |address| address.port());
    let url = settings.registered_url(port);
    let card = card::build(&config, &url);
    let status = Arc::new(status::Status::new());
    let plugins = Arc::new(plugins::Loader::new(&settings.config_dir, &env));
    for plugin in plugins.load() {
        log::line(&format!("plugin {}", plugin.line()));
    }

    // The server runs before the registration, so a platform that calls back
    // at once is answered.
    let served = server::Served {
        card: card.clone(),
        env,
        config_dir: settings.config_dir.clone(),
        status: Arc::clone(&status),
        plugins: Arc::clone(&plugins),
    };
    if let Err(error) = server::spawn(listener, served) {
        log::line(&format!("cannot start the server thread: {}", error.kind()));
        return ExitCode::FAILURE;
    }
    log::line(&format!("listening on port {port}, will register as {url}"));
    presence::run(&settings, &url, &card, &status, &plugins)
}
