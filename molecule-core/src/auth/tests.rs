//! Gates that the routes of other rooms call. The rest is tested over a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::error::Kind;
use crate::store::{connect, migrate};

const ADMIN: &str = "an-administrator-token";

struct Room {
    auth: Auth,
    ahead_secs: Arc<AtomicI64>,
    _dir: tempfile::TempDir,
}

impl Room {
    /// As in production.
    async fn strict() -> Self {
        Self::start(|config| {
            config.environment = Environment::Staging;
            config.auth.admin_token = Some(ADMIN.into());
            config.server.canvas_proxy_url = Some("http://127.0.0.1:9".to_owned());
        })
        .await
    }

    async fn development() -> Self {
        Self::start(|config| config.environment = Environment::Development).await
    }

    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.data_dir.0 = dir.path().to_owned();
        change(&mut config);
        let db = connect(&config).await.unwrap();
        migrate(&db).await.unwrap();
        let ahead_secs = Arc::new(AtomicI64::new(0));
        let ahead = Arc::clone(&ahead_secs);
        let clock =
            Clock::from_fn(move || Utc::now() + TimeDelta::seconds(ahead.load(Ordering::Relaxed)));
        let (relay, supervisor) = (Relay::new(&db), Supervisor::new(clock.clone()));
        let redactor = Redactor::default();
        Self {
            auth: Auth::new(db, clock, redactor, &config, relay, &supervisor).unwrap(),
            ahead_secs,
            _dir: dir,
        }
    }

    async fn workspace(&self) -> Uuid {
        store::add_workspace(&self.auth.db, "online").await
    }

    async fn token(&self, workspace: Uuid) -> String {
        let minted = self
            .auth
            .mint_workspace_token(&Principal::Admin, workspace)
            .await
            .unwrap();
        minted.expose().to_owned()
    }

    /// None when let in, else the text of the refusal.
    async fn own_token(&self, id: Uuid, headers: &HeaderMap) -> Option<String> {
        let answer = self.auth.own_token(id, headers).await;
        answer.err().map(|error| error.message().to_owned())
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).unwrap();
        (HeaderName::from_static(name), value)
    });
    pairs.collect()
}

fn with_bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

#[tokio::test]
async fn an_own_token_is_a_live_token_of_that_workspace_and_nothing_else() {
    let room = Room::strict().await;
    let (one, two) = (room.workspace().await, room.workspace().await);
    let enrolment = {
        let mut tx = room.auth.db.begin().await.unwrap();
        let secret = room.auth.issue_enrolment(&mut tx, two).await.unwrap();
        tx.commit().await.unwrap();
        secret
    };
    let token = room.token(one).await;
    let org = room.auth.mint_org_token(&Principal::Admin, None, None);
    let org = org.await.unwrap().token;
    assert_eq!(room.own_token(one, &with_bearer(&token)).await, None);
    let invalid = Some("invalid workspace auth token".to_owned());
    for bad in [ADMIN, org.expose(), "garbage"] {
        assert_eq!(
            room.own_token(one, &with_bearer(bad)).await,
            invalid,
            "{bad}"
        );
    }
    // A workspace that never had a token is no exception, whoever asks.
    for bad in [ADMIN, &token, enrolment.expose()] {
        assert_eq!(room.own_token(two, &with_bearer(bad)).await, invalid);
    }
    for id in [one, two, Uuid::new_v4()] {
        let refused = room.own_token(id, &HeaderMap::new()).await;
        assert_eq!(refused.as_deref(), Some("missing workspace auth token"));
    }
    room.auth.db.close().await;
    let known = room.auth.own_token(one, &with_bearer(&token)).await;
    assert!(known.is_ok(), "{known:?}");
    let unknown = room.auth.own_token(one, &with_bearer("garbage")).await;
    assert_eq!(
        unknown.err().map(|error| error.kind()),
        Some(Kind::Unavailable)
    );
}

#[tokio::test]
async fn in_development_a_workspace_without_a_live_token_is_open() {
    let room = Room::development().await;
    let (one, nobody) = (room.workspace().await, HeaderMap::new());
    assert_eq!(room.own_token(one, &nobody).await, None);
    assert_eq!(room.own_token(one, &with_bearer("garbage")).await, None);
    assert!(room.own_token(Uuid::new_v4(), &nobody).await.is_some());
    let token = room.token(one).await;
    assert!(room.own_token(one, &nobody).await.is_some());
    assert_eq!(room.own_token(one, &with_bearer(&token)).await, None);
}

#[tokio::test]
async fn a_caller_proves_with_its_own_token_who_it_says_it_is() {
    let room = Room::strict().await;
    let (one, two) = (room.workspace().await, room.workspace().await);
    let tokens = (room.token(one).await, room.token(two).await);
    let call = async |id: &str, token: Option<&str>| {
        let mut sent = headers(&[("x-workspace-id", id)]);
        if let Some(token) = token {
            sent.extend(with_bearer(token));
        }
        let answer = room.auth.caller(&sent).await;
        answer.map_err(|error| (error.kind(), error.message().to_owned()))
    };
    let id = one.to_string();
    assert_eq!(room.auth.caller(&HeaderMap::new()).await.unwrap(), None);
    assert_eq!(call(&id, Some(&tokens.0)).await, Ok(Some(one)));
    let missing = (Kind::Unauthorized, "missing caller auth token".to_owned());
    assert_eq!(call(&id, None).await, Err(missing));
    let invalid = (Kind::Unauthorized, "invalid caller auth token".to_owned());
    for bad in [tokens.1.as_str(), ADMIN, "garbage"] {
        assert_eq!(call(&id, Some(bad)).await, Err(invalid.clone()), "{bad}");
    }
    for reserved in [
        "webhook:github",
        "system:restart-context",
        "test:x",
        "channel:1",
    ] {
        let forbidden = (Kind::Forbidden, "invalid caller ID".to_owned());
        assert_eq!(
            call(reserved, Some(ADMIN)).await,
            Err(forbidden),
            "{reserved}"
        );
    }
    let no_id = (Kind::Invalid, "invalid X-Workspace-ID".to_owned());
    assert_eq!(call("nobody", Some(&tokens.0)).await, Err(no_id));
}

#[tokio::test]
async fn a_ticket_works_once_for_a_minute_and_its_workspace() {
    let room = Room::strict().await;
    let id = room.workspace().await;
    let admin = with_bearer(ADMIN);
    let issue = async |workspace| {
        let ticket = room.auth.issue_ticket(workspace, &admin).await.unwrap();
        ticket.expose().to_owned()
    };
    let redeem = async |ticket: &str| {
        let found = room.auth.redeem_ticket(ticket).await.unwrap();
        found.map(|found| found.workspace_id)
    };

    let ticket = issue(None).await;
    assert_eq!(redeem(&ticket).await, Some(None));
    assert_eq!(redeem(&ticket).await, None);
    let ticket = issue(Some(id)).await;
    let taken = futures_util::future::join_all((0..20).map(|_| redeem(&ticket))).await;
    let taken: Vec<_> = taken.into_iter().flatten().collect();
    assert_eq!(taken, [Some(id)]);

    let (fresh, stale) = (issue(None).await, issue(Some(id)).await);
    room.ahead_secs.store(58, Ordering::Relaxed);
    assert!(redeem(&fresh).await.is_some());
    room.ahead_secs.store(61, Ordering::Relaxed);
    assert_eq!(redeem(&stale).await, None);
    for unknown in ["", "x", ADMIN, &"x".repeat(1 << 20), "\0"] {
        assert_eq!(redeem(unknown).await, None);
    }
    let ticket = issue(None).await;
    room.auth.db.close().await;
    let away = room.auth.redeem_ticket(&ticket).await.err();
    assert_eq!(away.map(|error| error.kind()), Some(Kind::Unavailable));
}

#[tokio::test]
async fn the_canvas_is_known_without_the_database() {
    let room = Room::strict().await;
    let cookie = room.auth.open_canvas_session(&Principal::Admin).unwrap();
    room.auth.db.close().await;
    let cookie = format!("molecule_canvas={}", cookie.expose());
    let from = |origin: &str| {
        let sent = headers(&[("cookie", &cookie), ("host", "here:1"), ("origin", origin)]);
        room.auth.is_trusted_canvas(&sent)
    };
    assert!(from("http://here:1"));
    assert!(!from("http://elsewhere:1"));
    let bare = headers(&[("host", "here:1"), ("origin", "http://here:1")]);
    assert!(!room.auth.is_trusted_canvas(&bare));
}

#[tokio::test]
async fn a_revocation_counts_when_its_client_leaves_or_comes_too_late() {
    let room = Room::strict().await;
    let workspace = room.workspace().await;
    let token = room.token(workspace).await;
    assert!(room.auth.identify(&token).await.unwrap().is_some());
    let rows = room.auth.workspace_tokens(workspace, 1, 0).await.unwrap();
    let id = rows[0].id.to_string();
    {
        // The client leaves as soon as it has asked.
        let mut revoking = std::pin::pin!(room.auth.revoke_workspace_token(workspace, &id));
        let _ = futures_util::poll!(revoking.as_mut());
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while room.auth.identify(&token).await.unwrap().is_some() {
        assert!(std::time::Instant::now() < deadline, "it still counts");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A second attempt, and one that fails, forget what is known just as well.
    let before = room.auth.revocations();
    let again = room.auth.revoke_workspace_token(workspace, &id).await;
    assert_eq!(again.err().map(|error| error.kind()), Some(Kind::NotFound));
    let after = room.auth.revocations();
    assert!(after > before);
    room.auth.db.close().await;
    let failed = room.auth.revoke_org_token(&Principal::Admin, &id).await;
    assert!(failed.is_err());
    assert!(room.auth.revocations() > after);
}

#[tokio::test]
async fn a_request_is_counted_by_what_is_known_of_its_token() {
    let room = Room::strict().await;
    let token = room.token(room.workspace().await).await;
    let known = |token: &str| room.auth.known_credential(&with_bearer(token)).is_some();
    assert!(known(ADMIN));
    assert!(!known(&token), "nobody looked it up yet");
    let before = room.auth.revocations();
    assert!(room.auth.identify(&token).await.unwrap().is_some());
    assert!(known(&token));
    room.auth.forget(Uuid::new_v4());
    assert!(known(&token));
    assert!(room.auth.revocations() > before);
    room.auth
        .forget(match room.auth.identify(&token).await.unwrap() {
            Some(Principal::Workspace(id)) => id,
            other => panic!("{other:?}"),
        });
    assert!(!known(&token));
}
