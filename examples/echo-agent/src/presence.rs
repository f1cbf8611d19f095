//! Registering with the platform and staying known to it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::credentials::{self, AUTH_TOKEN, INBOUND_SECRET};
use crate::http::HttpError;
use crate::http::client::{self, Response};
use crate::log;
use crate::plugins::{self, Loader};
use crate::settings::Settings;
use crate::status::Status;

const FIRST_RETRY: Duration = Duration::from_millis(250);
/// How much slower an agent the platform does not know keeps asking.
const UNKNOWN_FACTOR: u32 = 4;

/// Registers, then sends heartbeats for ever. An absent, slow or refusing
/// platform is a reason to try again, never to exit.
pub(crate) fn run(
    settings: &Settings,
    url: &str,
    card: &Value,
    status: &Arc<Status>,
    plugins: &Loader,
) -> ExitCode {
    let mut platform = Platform {
        settings,
        plugins,
        token: credentials::read(&settings.config_dir, AUTH_TOKEN),
    };
    platform.register(url, card);
    loop {
        std::thread::sleep(platform.heartbeat(status));
    }
}

/// The platform as this workspace sees it.
struct Platform<'a> {
    settings: &'a Settings,
    plugins: &'a Loader,
    /// Kept in memory too, so an unwritable folder does not lock the agent out.
    token: Option<String>,
}

impl Platform<'_> {
    /// Tries until the platform has accepted the registration.
    fn register(&mut self, url: &str, card: &Value) {
        let body = json!({
            "id": self.settings.workspace_id,
            "url": url,
            "agent_card": card,
            "plugins": plugins::report(&self.plugins.load()),
        });
        let slowest = self.settings.heartbeat;
        let mut pause = FIRST_RETRY.min(slowest);
        loop {
            match self.post("/registry/register", &body) {
                Ok(response) if is_success(response.status) => {
                    self.keep_secrets(&response.body);
                    log::line(&format!("registered as {url}"));
                    return;
                }
                outcome => {
                    // A refusal does not heal in milliseconds.
                    if matches!(&outcome, Ok(response) if (400..429).contains(&response.status)) {
                        pause = slowest;
                    }
                    log::line(&format!("not registered: {}", describe(&outcome)));
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(slowest);
        }
    }

    /// Sends one heartbeat and says how long to wait for the next.
    fn heartbeat(&mut self, status: &Status) -> Duration {
        let active = status.active_tasks();
        let body = json!({
            "workspace_id": self.settings.workspace_id,
            // An echo cannot fail, so there is no error to report.
            "error_rate": 0.0,
            "sample_error": "",
            "active_tasks": active,
            "current_task": if active == 0 { "" } else { "answering a message" },
            "uptime_seconds": status.uptime_seconds(),
            // Read anew each time: an echo has nothing of them in memory.
            "plugins": plugins::report(&self.plugins.load()),
        });
        let outcome = self.post("/registry/heartbeat", &body);
        match &outcome {
            Ok(response) if is_success(response.status) => self.keep_secrets(&response.body),
            _ => log::line(&format!("heartbeat failed: {}", describe(&outcome))),
        }
        match outcome {
            Ok(response) if response.status == 404 => self.settings.heartbeat * UNKNOWN_FACTOR,
            _ => self.settings.heartbeat,
        }
    }

    /// Posts with the present token. On a 401 the token file is read again and
    /// the call repeated once: the platform may have rotated the token.
    fn post(&mut self, path: &str, body: &Value) -> Result<Response, HttpError> {
        let platform = &self.settings.platform;
        let response = client::post(platform, path, self.token.as_deref(), body)?;
        if response.status != 401 {
            return Ok(response);
        }
        let fresh = credentials::read(&self.settings.config_dir, AUTH_TOKEN);
        if fresh.is_none() || fresh == self.token {
            return Ok(response);
        }
        log::line("the token was refused; trying the one now in the token file");
        self.token = fresh;
        client::post(platform, path, self.token.as_deref(), body)
    }

    /// Keeps the credentials an answer may carry.
    fn keep_secrets(&mut self, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return;
        };
        let dir = &self.settings.config_dir;
        let usable = |field: &str| {
            let text = answer.get(field)?.as_str()?;
            credentials::is_usable(text).then(|| text.to_owned())
        };
        if let Some(token) = usable("auth_token") {
            persist(dir, AUTH_TOKEN, &token);
            self.token = Some(token);
        }
        if let Some(secret) = usable("platform_inbound_secret") {
            persist(dir, INBOUND_SECRET, &secret);
        }
    }
}

/// Writes a credential unless it is already there.
fn persist(dir: &Path, name: &str, text: &str) {
    if credentials::read(dir, name).as_deref() == Some(text) {
        return;
    }
    match credentials::write(dir, name, text) {
        Ok(()) => log::line(&format!("stored a new {name}")),
        Err(error) => log::line(&format!("cannot store {name}: {}", error.kind())),
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// The outcome for the log: a number or an error class, never a body.
fn describe(outcome: &Result<Response, HttpError>) -> String {
    match outcome {
        Ok(response) => format!("the platform answered {}", response.status),
        Err(error) => error.to_string(),
    }
}
