//! A stand-in for the access token API of a GitLab: project and group access
//! tokens are created, listed as themselves, rotated and revoked.
//!
//! ```
//! use molecule_hooks::testing::gitlab::GitlabStandIn;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let gitlab = GitlabStandIn::start("glpat-of-the-maintainer").await?;
//! gitlab.add_project("team/app");
//! // … let the hook work against gitlab.url() …
//! assert!(gitlab.live_tokens().is_empty());
//! # Ok(()) }
//! ```

use std::collections::BTreeSet;
use std::io;

use chrono::{Days, NaiveDate};
use serde_json::{Value, json};

use super::{Stage, stand_in, text};
use crate::clock::Clock;
use crate::testing::{RecordedRequest, Reply};

/// GitLab takes an end at most this many days away.
const LONGEST_DAYS: u64 = 365;

/// A running GitLab. Dropping it stops it.
#[derive(Debug)]
pub struct GitlabStandIn(Stage<Gitlab>);

#[derive(Debug)]
struct Gitlab {
    clock: Clock,
    maintainer: String,
    owners: BTreeSet<String>,
    tokens: Vec<AccessToken>,
    loses_next: bool,
    refuses_revocations: bool,
}

/// An access token as GitLab knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessToken {
    /// Its id, counted from 1.
    pub id: u64,
    /// What owns it: `projects/team/app` or `groups/7`.
    pub owner: String,
    /// The name it was given.
    pub name: String,
    /// The token itself.
    pub token: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// 10 guest, 20 reporter, 30 developer, 40 maintainer, 50 owner.
    pub access_level: u64,
    /// It stops working when this day begins, UTC.
    pub expires_at: NaiveDate,
    /// True once it was revoked or rotated away.
    pub revoked: bool,
}

stand_in!(GitlabStandIn);

impl GitlabStandIn {
    /// Starts one that lets this token manage access tokens, by the wall clock.
    ///
    /// # Errors
    /// The error of the operating system when no port can be had.
    pub async fn start(maintainer: &str) -> io::Result<Self> {
        Self::start_with_clock(maintainer, Clock::system()).await
    }

    /// As [`start`](GitlabStandIn::start), by another clock.
    ///
    /// # Errors
    /// As [`start`](GitlabStandIn::start).
    pub async fn start_with_clock(maintainer: &str, clock: Clock) -> io::Result<Self> {
        let gitlab = Gitlab {
            clock,
            maintainer: maintainer.to_owned(),
            owners: BTreeSet::new(),
            tokens: Vec::new(),
            loses_next: false,
            refuses_revocations: false,
        };
        Ok(Self(Stage::start(gitlab, answer).await?))
    }

    /// Adds a project, by its id or its full path.
    pub fn add_project(&self, project: &str) {
        self.0.lock().owners.insert(format!("projects/{project}"));
    }

    /// Adds a group, by its id or its full path.
    pub fn add_group(&self, group: &str) {
        self.0.lock().owners.insert(format!("groups/{group}"));
    }

    /// Every token made so far, oldest first.
    pub fn tokens(&self) -> Vec<AccessToken> {
        self.0.lock().tokens.clone()
    }

    /// Those that work now.
    pub fn live_tokens(&self) -> Vec<AccessToken> {
        let gitlab = self.0.lock();
        let live = gitlab.tokens.iter().filter(|token| gitlab.is_live(token));
        live.cloned().collect()
    }

    /// Makes the next token it is asked for, but answers with 502, as a proxy in front
    /// of it does that lost the answer.
    pub fn lose_next_creation(&self) {
        self.0.lock().loses_next = true;
    }

    /// Whether it answers every revocation with 403.
    pub fn set_refuses_revocations(&self, refuses: bool) {
        self.0.lock().refuses_revocations = refuses;
    }

    /// Revokes the token that manages the others.
    pub fn revoke_maintainer(&self) {
        self.0.lock().maintainer.clear();
    }
}

impl Gitlab {
    fn today(&self) -> NaiveDate {
        self.clock.now().date_naive()
    }

    fn is_live(&self, token: &AccessToken) -> bool {
        !token.revoked && token.expires_at > self.today()
    }

    fn create(&mut self, owner: &str, body: &Value) -> Reply {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let scopes: Vec<String> = body["scopes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|scope| scope.as_str().map(str::to_owned))
            .collect();
        let access_level = body["access_level"].as_u64().unwrap_or(40);
        let missing = ["name", "scopes"].into_iter().find(|&key| match key {
            "name" => text("name").is_empty(),
            _ => scopes.is_empty(),
        });
        if let Some(missing) = missing {
            return Reply::json(400, json!({ "error": format!("{missing} is missing") }));
        }
        if ![10, 20, 30, 40, 50].contains(&access_level) {
            let error = "access_level does not have a valid value";
            return Reply::json(400, json!({ "error": error }));
        }
        match self.end(&text("expires_at")) {
            Ok(expires_at) => {
                let made = self.add(owner, text("name"), scopes, access_level, expires_at, 201);
                match std::mem::take(&mut self.loses_next) {
                    true => Reply::text(502, "Bad Gateway"),
                    false => made,
                }
            }
            Err(refused) => refused,
        }
    }

    /// The page of those that a list is asked for, by state and part of the name.
    fn list(&self, owner: &str, query: &str) -> Reply {
        let query = text::form(query);
        let asked = |key: &str| query.get(key).map_or("", String::as_str);
        let number = |key: &str, usual: usize| asked(key).parse().unwrap_or(usual).max(1);
        let (page, per_page) = (number("page", 1), number("per_page", 20).min(100));
        let known = self.tokens.iter().filter(|token| {
            token.owner == owner
                && (asked("state") != "active" || self.is_live(token))
                && token.name.contains(asked("search"))
        });
        let shown = known
            .skip((page - 1) * per_page)
            .take(per_page)
            .map(|token| self.show(token));
        Reply::json(200, shown.collect())
    }

    fn rotate(&mut self, owner: &str, id: u64, body: &Value) -> Reply {
        let today = self.today();
        let known = |token: &&mut AccessToken| token.owner == owner && token.id == id;
        let Some(old) = self.tokens.iter_mut().find(known) else {
            return message(404, "404 Not Found");
        };
        if old.revoked || old.expires_at <= today {
            return message(401, "401 Unauthorized");
        }
        let old = {
            old.revoked = true;
            old.clone()
        };
        match self.end(body["expires_at"].as_str().unwrap_or_default()) {
            Ok(end) => self.add(owner, old.name, old.scopes, old.access_level, end, 200),
            Err(refused) => refused,
        }
    }

    fn revoke(&mut self, owner: &str, id: u64) -> Reply {
        let known =
            |token: &&mut AccessToken| token.owner == owner && token.id == id && !token.revoked;
        match self.tokens.iter_mut().find(known) {
            Some(token) => {
                token.revoked = true;
                Reply::status(204)
            }
            None => message(404, "404 Not Found"),
        }
    }

    fn add(
        &mut self,
        owner: &str,
        name: String,
        scopes: Vec<String>,
        access_level: u64,
        expires_at: NaiveDate,
        status: u16,
    ) -> Reply {
        let id = self.tokens.len() as u64 + 1;
        let token = AccessToken {
            id,
            owner: owner.to_owned(),
            name,
            token: format!("glpat-stand-in-{id:08}"),
            scopes,
            access_level,
            expires_at,
            revoked: false,
        };
        let mut body = self.show(&token);
        body["token"] = json!(token.token);
        self.tokens.push(token);
        Reply::json(status, body)
    }

    fn end(&self, text: &str) -> Result<NaiveDate, Reply> {
        let today = self.today();
        let latest = today.checked_add_days(Days::new(LONGEST_DAYS));
        let refused = |why: &str| Reply::json(400, json!({ "message": { "expires_at": [why] } }));
        match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(day) if day <= today => Err(refused("must be a future date")),
            Ok(day) if latest.is_some_and(|latest| day > latest) => {
                Err(refused("exceeds the maximum lifetime"))
            }
            Ok(day) => Ok(day),
            Err(_) => Err(Reply::json(
                400,
                json!({ "error": "expires_at is invalid" }),
            )),
        }
    }

    fn show(&self, token: &AccessToken) -> Value {
        json!({
            "id": token.id,
            "name": token.name,
            "revoked": token.revoked,
            "created_at": self.clock.now().to_rfc3339(),
            "description": null,
            "scopes": token.scopes,
            "user_id": 1000 + token.id,
            "last_used_at": null,
            "active": self.is_live(token),
            "expires_at": token.expires_at.to_string(),
            "access_level": token.access_level,
        })
    }
}

fn answer(gitlab: &mut Gitlab, request: &RecordedRequest) -> Reply {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let sent = request.header("private-token").unwrap_or_default();
    let segments: Vec<String> = path
        .strip_prefix("/api/v4/")
        .unwrap_or_default()
        .split('/')
        .map(text::decode_percent)
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = request.method.as_str();
    if let ("GET", ["personal_access_tokens", "self"]) = (method, segments.as_slice()) {
        let own = gitlab.tokens.iter().find(|token| token.token == sent);
        return match own.filter(|token| gitlab.is_live(token)) {
            Some(token) => Reply::json(200, gitlab.show(token)),
            None => message(401, "401 Unauthorized"),
        };
    }
    let is_maintainer = !gitlab.maintainer.is_empty() && sent == gitlab.maintainer;
    if !is_maintainer {
        return message(401, "401 Unauthorized");
    }
    let [
        kind @ ("projects" | "groups"),
        owner,
        "access_tokens",
        rest @ ..,
    ] = segments.as_slice()
    else {
        return Reply::json(404, json!({ "error": "404 Not Found" }));
    };
    let owner = format!("{kind}/{owner}");
    if !gitlab.owners.contains(&owner) {
        let kind = if *kind == "projects" {
            "Project"
        } else {
            "Group"
        };
        return message(404, &format!("404 {kind} Not Found"));
    }
    let body = request.json().unwrap_or_default();
    match (method, rest) {
        ("POST", []) => gitlab.create(&owner, &body),
        ("GET", []) => gitlab.list(&owner, query),
        ("DELETE", [_]) if gitlab.refuses_revocations => message(403, "403 Forbidden"),
        ("POST", [id, "rotate"]) => gitlab.rotate(&owner, id.parse().unwrap_or_default(), &body),
        ("DELETE", [id]) => gitlab.revoke(&owner, id.parse().unwrap_or_default()),
        _ => Reply::json(405, json!({ "error": "405 Not Allowed" })),
    }
}

fn message(status: u16, message: &str) -> Reply {
    Reply::json(status, json!({ "message": message }))
}
