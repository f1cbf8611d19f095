//! External workspaces: how their agents connect, and new credentials for them.

use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::connection;
use super::model::{Status, Workspace};
use super::{Workspaces, store};
use crate::error::{Error, Result};
use crate::events::EventType;

/// Longest host name with its port that is believed.
const MAX_HOST_BYTES: usize = 260;

impl Workspaces {
    /// Revokes every token of an external workspace, then mints one: from the commit
    /// on only the new one works. Also the way out when the reply to a first
    /// registration was lost, and with it the only token.
    ///
    /// # Errors
    /// 400 for a workspace that is not external; 404 `workspace not found`; 500
    /// `lookup failed`, `revoke failed` or `mint failed`.
    pub(crate) async fn rotate(&self, id: Uuid, platform_url: &str) -> Result<Value> {
        self.external(id, "rotate is only valid for runtime=external workspaces")
            .await?;
        let services = &self.services;
        let mint = |error: sqlx::Error| Error::from(error).says("mint failed");
        let revoke = |error: sqlx::Error| Error::from(error).says("revoke failed");
        let mut tx = services.db.begin().await.map_err(revoke)?;
        // Of two at once the second one revokes what the first one minted.
        if !store::lock_live(&mut tx, id).await.map_err(revoke)? {
            return Err(Error::not_found("workspace not found"));
        }
        let revoked = services.auth.revoke_all(&mut tx, id).await;
        revoked.map_err(revoke)?;
        let token = services.auth.issue(&mut tx, id).await;
        let token = token.map_err(|error| error.says("mint failed"))?;
        let event = services
            .events
            .record(
                &mut tx,
                EventType::ExternalCredentialsRotated,
                id,
                json!({ "workspace_id": id }),
            )
            .await
            .map_err(mint)?;
        let committed = tx.commit().await;
        // Also when the answer to the commit was lost: it may have happened.
        services.auth.forget(id);
        committed.map_err(mint)?;
        services.events.publish(event);
        let connection = connection(id, platform_url, Some(token.expose()));
        Ok(json!({ "connection": connection }))
    }

    /// How the agent of an external workspace connects, without its token.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub(crate) async fn connection(&self, id: Uuid, platform_url: &str) -> Result<Value> {
        let refusal = "connection payload is only valid for runtime=external workspaces";
        self.external(id, refusal).await?;
        Ok(json!({ "connection": connection(id, platform_url, None) }))
    }

    async fn external(&self, id: Uuid, refusal: &str) -> Result<Workspace> {
        let found = store::find(&self.services.db, id).await;
        let workspace = found
            .map_err(|error| Error::from(error).says("lookup failed"))?
            .filter(|workspace| workspace.status() != Status::Removed)
            .ok_or_else(|| Error::not_found("workspace not found"))?;
        match workspace.external {
            true => Ok(workspace),
            false => Err(Error::invalid(refusal)
                .with("runtime", workspace.runtime)
                .with(
                    "hint",
                    "this server starts the agent itself and gives it its credentials; restart the workspace for new ones",
                )),
        }
    }
}

/// The URL under which a caller reached this server. What it says about itself lands
/// in scripts that people paste, so only plain host names and ports are believed.
pub(super) fn reached_at(proto: Option<&str>, hosts: [Option<&str>; 2], otherwise: &str) -> String {
    // Of a chain of proxies the first one saw the caller.
    let first = |list: &str| list.split(',').next().unwrap_or_default().trim().to_owned();
    let scheme = match proto.map(first).as_deref() {
        Some("https") => "https",
        _ => "http",
    };
    let host = hosts
        .into_iter()
        .flatten()
        .map(first)
        .find(|host| is_plain_host(host));
    match host {
        Some(host) => format!("{scheme}://{host}"),
        None => otherwise.to_owned(),
    }
}

/// `name`, `1.2.3.4` or `[::1]`, with or without a port.
fn is_plain_host(text: &str) -> bool {
    let plain = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<std::net::Ipv6Addr>().is_ok() && is_port(port)
        }),
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at(end);
            let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
            starts && name.bytes().all(ok) && is_port(port)
        }
    };
    plain && text.len() <= MAX_HOST_BYTES
}

/// Nothing, or a colon and a number.
fn is_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(port) => {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0)
        }
        None => text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_plain_host_counts() {
        let of = |proto, forwarded, host| reached_at(proto, [forwarded, host], "http://set");
        let some = Some;
        let table = [
            (None, None, some("a:8080"), "http://a:8080"),
            (
                some("https"),
                some("m.example"),
                some("a"),
                "https://m.example",
            ),
            (
                some("https, http"),
                some("m.example, b"),
                some("a"),
                "https://m.example",
            ),
            (some("ftp"), None, some("[::1]:80"), "http://[::1]:80"),
            (None, some("$(id)"), some("a"), "http://a"),
            (None, some(""), some("a"), "http://a"),
            (None, None, None, "http://set"),
            (None, some("x'y"), some("a/b"), "http://set"),
        ];
        for (proto, forwarded, host, expected) in table {
            assert_eq!(
                of(proto, forwarded, host),
                expected,
                "{forwarded:?} {host:?}"
            );
        }
        let long = "a".repeat(261);
        for bad in [
            "user@host",
            "a b",
            "a\tb",
            "a;b",
            "a`b",
            "a|b",
            "a?b",
            "a#b",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:b",
            "-a",
            ".",
            ":80",
            "[::1",
            "[::1]x",
            "[x]",
            "[1.2.3.4]",
            "ä",
            "a%20",
            &long,
        ] {
            assert!(!is_plain_host(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_believed_means_nothing_to_a_shell(text in "\\PC{0,20}") {
            if is_plain_host(&text) {
                let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
                prop_assert!(text.chars().all(plain));
            }
        }
    }
}
