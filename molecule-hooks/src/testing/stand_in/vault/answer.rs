//! The wire format of Vault's HTTP API.

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use super::{Lease, Vault};
use crate::testing::{RecordedRequest, Reply};

const ACCESSOR: &str = "0e9e354a-520f-df04-6867-ee81cae3d42d";

pub(super) fn answer(vault: &mut Vault, request: &RecordedRequest) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let Some(path) = path.strip_prefix("/v1/") else {
        return errors(404, &[]);
    };
    if vault.sealed {
        return errors(503, &["Vault is sealed"]);
    }
    let namespace = request.header("x-vault-namespace").unwrap_or_default();
    if namespace.trim_matches('/') != vault.namespace.as_deref().unwrap_or_default() {
        return no_route(path);
    }
    let writes = matches!(request.method.as_str(), "POST" | "PUT");
    let body = request.json().unwrap_or_default();
    match path {
        "auth/approle/login" if writes => return vault.approle_login(&body),
        "auth/kubernetes/login" if writes => return vault.kubernetes_login(&body),
        _ => {}
    }
    let Some((token, lease)) = vault.live(request) else {
        return errors(403, &["permission denied", "invalid token"]);
    };
    match path {
        "auth/token/lookup-self" | "auth/token/renew-self" if !vault.default_policy => {
            permission_denied()
        }
        "auth/token/lookup-self" => vault.look_up(&token, &lease),
        "auth/token/renew-self" if writes => vault.renew(&token, lease),
        path => match path.strip_prefix("secret/data/") {
            Some(path) if request.method == "GET" => vault.read(path),
            _ => no_route(path),
        },
    }
}

impl Vault {
    fn live(&self, request: &RecordedRequest) -> Option<(String, Lease)> {
        let bearer = || request.header("authorization")?.strip_prefix("Bearer ");
        let token = request.header("x-vault-token").or_else(bearer)?;
        let lease = self.tokens.get(token)?;
        let now = self.clock.now();
        let is_live = lease.ends_at.is_none_or(|end| end > now);
        is_live.then(|| (token.to_owned(), lease.clone()))
    }

    fn approle_login(&mut self, body: &Value) -> Reply {
        let sent = (&body["role_id"], &body["secret_id"]);
        match &self.approle {
            Some((role_id, secret_id)) if sent.0 == role_id && sent.1 == secret_id => self.log_in(),
            Some(_) => errors(400, &["invalid role or secret ID"]),
            None => no_route("auth/approle/login"),
        }
    }

    fn kubernetes_login(&mut self, body: &Value) -> Reply {
        match &self.kubernetes {
            Some((role, _)) if body["role"] != *role => errors(400, &["invalid role name"]),
            Some((_, jwt)) if body["jwt"] == *jwt => self.log_in(),
            Some(_) => errors(403, &["permission denied"]),
            None => no_route("auth/kubernetes/login"),
        }
    }

    fn log_in(&mut self) -> Reply {
        self.logins += 1;
        let token = format!("hvs.standInVaultToken{:06}", self.logins);
        let lease = self.lease(self.life);
        let reply = self.auth(&token, &lease);
        self.tokens.insert(token, lease);
        reply
    }

    fn renew(&mut self, token: &str, mut lease: Lease) -> Reply {
        if !lease.renewable {
            return errors(400, &["lease is not renewable"]);
        }
        self.renewals += 1;
        let renewed = self.lease(lease.life);
        lease.ends_at = match (renewed.ends_at, lease.latest) {
            (Some(end), Some(latest)) => Some(end.min(latest)),
            (end, _) => end,
        };
        let reply = self.auth(token, &lease);
        self.tokens.insert(token.to_owned(), lease);
        reply
    }

    /// The answer of logins and renewals.
    fn auth(&self, token: &str, lease: &Lease) -> Reply {
        let mut body = envelope();
        body["auth"] = json!({
            "client_token": token,
            "accessor": ACCESSOR,
            "policies": ["default", "molecule"],
            "token_policies": ["default", "molecule"],
            "metadata": { "role_name": "molecule" },
            // What was granted a moment ago, so it is rounded up.
            "lease_duration": (self.left_millis(lease) + 999) / 1000,
            "renewable": lease.renewable,
            "entity_id": "",
            "token_type": "service",
            "orphan": true,
            "mfa_requirement": null,
            "num_uses": 0,
        });
        Reply::json(200, body)
    }

    fn look_up(&self, token: &str, lease: &Lease) -> Reply {
        let text =
            |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let life = TimeDelta::from_std(lease.life).unwrap_or_default();
        let mut body = envelope();
        body["data"] = json!({
            "accessor": ACCESSOR,
            "creation_ttl": lease.life.as_secs(),
            "display_name": "token",
            "entity_id": "",
            "expire_time": lease.ends_at.map(text),
            "explicit_max_ttl": 0,
            "id": token,
            "issue_time": lease.ends_at.map(|end| text(end - life)),
            "num_uses": 0,
            "orphan": true,
            "path": "auth/token/create",
            "policies": ["default", "molecule"],
            "renewable": lease.renewable,
            "ttl": self.left_millis(lease) / 1000,
            "type": "service",
        });
        // Vault has nothing to say about the lease of a token without one.
        if let (None, Some(data)) = (lease.ends_at, body["data"].as_object_mut()) {
            data.remove("renewable");
            data.remove("issue_time");
        }
        Reply::json(200, body)
    }

    fn read(&self, path: &str) -> Reply {
        if self.forbidden.contains(path) {
            return permission_denied();
        }
        let Some(entry) = self.secrets.get(path) else {
            return errors(404, &[]);
        };
        let deleted = entry.data.is_none();
        let mut body = envelope();
        body["data"] = json!({
            "data": entry.data,
            "metadata": {
                "created_time": "2026-01-02T03:04:05.678901234Z",
                "custom_metadata": null,
                "deletion_time": if deleted { "2026-01-03T03:04:05.678901234Z" } else { "" },
                "destroyed": false,
                "version": entry.version,
            },
        });
        Reply::json(if deleted { 404 } else { 200 }, body)
    }
}

fn envelope() -> Value {
    json!({
        "request_id": "2b4f1b5e-6b0a-3f6e-9a55-1b1d3c2e7f10",
        "lease_id": "",
        "renewable": false,
        "lease_duration": 0,
        "data": null,
        "wrap_info": null,
        "warnings": null,
        "auth": null,
        "mount_type": "kv",
    })
}

fn errors(status: u16, errors: &[&str]) -> Reply {
    Reply::json(status, json!({ "errors": errors }))
}

fn permission_denied() -> Reply {
    errors(403, &["1 error occurred:\n\t* permission denied\n\n"])
}

fn no_route(path: &str) -> Reply {
    let text = format!("no handler for route {path:?}. route entry not found.");
    errors(404, &[&text])
}
