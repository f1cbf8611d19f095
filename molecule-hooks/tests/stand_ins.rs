//! The stand-ins, asked over sockets: they must be as strict as what they stand for,
//! or a hook that only works with them would pass its tests.
#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use molecule_hooks::testing::github::GithubApp;
use molecule_hooks::testing::gitlab::GitlabStandIn;
use molecule_hooks::testing::oauth2::OauthIssuer;
use molecule_hooks::testing::vault::VaultStandIn;
use molecule_hooks::testing::{FakeClock, Fault};
use serde_json::{Value, json};

/// One exchange: the status and the body as JSON.
async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Value) {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn vault_reads_versions_for_those_who_may() {
    let vault = VaultStandIn::start().await.unwrap();
    let at = vault.upstream().address();
    vault.add_token("hvs.good", None);
    vault.put("a/b", json!({ "K": "1" }));
    vault.put("a/b", json!({ "K": "2" }));
    vault.forbid("a/secret");
    let read = async |path: &str, token: &str| {
        let path = format!("/v1/secret/data/{path}");
        ask(at, "GET", &path, &[("X-Vault-Token", token)], "").await
    };

    let (status, body) = read("a/b", "hvs.good").await;
    assert_eq!((status, &body["data"]["data"]), (200, &json!({ "K": "2" })));
    assert_eq!(body["data"]["metadata"]["version"], 2);
    assert_eq!(
        read("none", "hvs.good").await,
        (404, json!({ "errors": [] }))
    );
    assert_eq!(read("a/secret", "hvs.good").await.0, 403);
    assert_eq!(read("a/b", "hvs.bad").await.0, 403);
    vault.delete("a/b");
    let (status, body) = read("a/b", "hvs.good").await;
    assert_eq!((status, &body["data"]["data"]), (404, &Value::Null));
    vault.set_sealed(true);
    assert_eq!(read("a/b", "hvs.good").await.0, 503);
    vault.set_sealed(false);
    vault.require_namespace("team");
    assert_eq!(read("a/b", "hvs.good").await.0, 404);
    vault.revoke_tokens();
    assert!(vault.tokens().is_empty());
}

#[tokio::test]
async fn vault_ends_leases_and_renews_them_up_to_their_longest_life() {
    let time = FakeClock::new();
    let vault = VaultStandIn::start_with_clock(time.clock()).await.unwrap();
    let at = vault.upstream().address();
    vault.set_approle("role", "secret");
    vault.set_life(Duration::from_secs(100), Some(Duration::from_secs(150)));
    let log_in = async |secret: &str| {
        let body = json!({ "role_id": "role", "secret_id": secret }).to_string();
        ask(at, "POST", "/v1/auth/approle/login", &[], &body).await
    };
    assert_eq!(log_in("wrong").await.0, 400);
    let (_, login) = log_in("secret").await;
    assert_eq!(login["auth"]["lease_duration"], 100);
    let token = login["auth"]["client_token"].as_str().unwrap().to_owned();
    let own = async |method: &str, what: &str| {
        let path = format!("/v1/auth/token/{what}");
        ask(at, method, &path, &[("X-Vault-Token", &token)], "{}").await
    };

    time.advance(Duration::from_secs(60));
    assert_eq!(own("GET", "lookup-self").await.1["data"]["ttl"], 40);
    let (_, renewed) = own("POST", "renew-self").await;
    assert_eq!(
        renewed["auth"]["lease_duration"], 90,
        "the longest life is near"
    );
    time.advance(Duration::from_secs(91));
    assert_eq!(own("GET", "lookup-self").await.0, 403);
    assert_eq!(own("POST", "renew-self").await.0, 403);

    vault.set_renewable(false);
    let (_, login) = log_in("secret").await;
    let token = login["auth"]["client_token"].as_str().unwrap().to_owned();
    let headers = [("X-Vault-Token", token.as_str())];
    let (status, _) = ask(at, "POST", "/v1/auth/token/renew-self", &headers, "{}").await;
    assert_eq!((status, vault.logins(), vault.renewals()), (400, 2, 1));
}

#[tokio::test]
async fn vault_takes_the_service_account_of_the_right_role() {
    let vault = VaultStandIn::start().await.unwrap();
    let at = vault.upstream().address();
    vault.set_kubernetes("molecule", "a.b.c");
    let log_in = async |role: &str, jwt: &str| {
        let body = json!({ "role": role, "jwt": jwt }).to_string();
        ask(at, "POST", "/v1/auth/kubernetes/login", &[], &body)
            .await
            .0
    };
    assert_eq!(log_in("other", "a.b.c").await, 400);
    assert_eq!(log_in("molecule", "x").await, 403);
    assert_eq!(log_in("molecule", "a.b.c").await, 200);
    assert_eq!(
        ask(at, "POST", "/v1/auth/approle/login", &[], "{}").await.0,
        404
    );
}

#[tokio::test]
async fn the_issuer_checks_client_grant_scope_and_audience() {
    let issuer = OauthIssuer::start().await.unwrap();
    let at = issuer.upstream().address();
    issuer.add_client("me", "s e", &["read"]);
    let basic =
        |id: &str, secret: &str| format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    let form = "application/x-www-form-urlencoded";
    let mint = async |authorization: &str, body: &str| {
        let headers = [("Content-Type", form), ("Authorization", authorization)];
        let (status, body) = ask(at, "POST", "/oauth2/token", &headers, body).await;
        (
            status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let good = basic("me", "s+e");
    let grant = "grant_type=client_credentials";
    assert_eq!(mint(&good, grant).await.0, 200);
    assert_eq!(
        mint(&basic("me", "s e!"), grant).await,
        (401, "invalid_client".into())
    );
    assert_eq!(
        mint("Bearer x", grant).await,
        (401, "invalid_client".into())
    );
    assert_eq!(
        mint(&good, "grant_type=password").await,
        (400, "unsupported_grant_type".into())
    );
    let scope = format!("{grant}&scope=read+admin");
    assert_eq!(mint(&good, &scope).await, (400, "invalid_scope".into()));
    issuer.require_audience("api");
    assert_eq!(mint(&good, grant).await, (400, "invalid_target".into()));
    assert_eq!(
        mint(&good, &format!("{grant}&audience=api&scope=read"))
            .await
            .0,
        200
    );
    let (status, _) = ask(at, "POST", "/oauth2/token", &[], grant).await;
    assert_eq!((status, issuer.issued().len()), (400, 2));
    assert_eq!(ask(at, "GET", "/elsewhere", &[], "").await.0, 404);
}

#[tokio::test]
async fn gitlab_keeps_book_of_its_tokens() {
    let time = FakeClock::new();
    let gitlab = GitlabStandIn::start_with_clock("boss", time.clock())
        .await
        .unwrap();
    let at = gitlab.upstream().address();
    gitlab.add_project("a/b");
    let call = async |method: &str, path: &str, token: &str, body: Value| {
        let headers = [("PRIVATE-TOKEN", token)];
        let path = format!("/api/v4/{path}");
        ask(at, method, &path, &headers, &body.to_string()).await
    };
    let tokens = "projects/a%2Fb/access_tokens";
    let order = |end: &str| json!({ "name": "n", "scopes": ["api"], "expires_at": end });

    for (body, why) in [
        (order("2026-01-01"), "a day that began already"),
        (order("2027-06-01"), "more than a year"),
        (order("soon"), "no date"),
        (
            json!({ "name": "n", "expires_at": "2026-01-03" }),
            "no scopes",
        ),
    ] {
        assert_eq!(call("POST", tokens, "boss", body).await.0, 400, "{why}");
    }
    assert_eq!(
        call("POST", tokens, "nobody", order("2026-01-03")).await.0,
        401
    );
    assert_eq!(
        call("POST", "projects/x/access_tokens", "boss", json!({}))
            .await
            .0,
        404
    );

    let (status, made) = call("POST", tokens, "boss", order("2026-01-03")).await;
    assert_eq!((status, &made["expires_at"]), (201, &json!("2026-01-03")));
    let own = "personal_access_tokens/self";
    let first = made["token"].as_str().unwrap();
    assert_eq!(call("GET", own, first, json!({})).await.1["active"], true);

    let rotate = format!("{tokens}/1/rotate");
    let (status, second) = call("POST", &rotate, "boss", order("2026-01-02")).await;
    assert_eq!(status, 200);
    assert_eq!(
        call("GET", own, first, json!({})).await.0,
        401,
        "rotated away"
    );
    assert_eq!(
        call("POST", &rotate, "boss", order("2026-01-02")).await.0,
        401
    );
    let second = second["token"].as_str().unwrap();
    time.advance(Duration::from_secs(86_400));
    assert_eq!(
        call("GET", own, second, json!({})).await.0,
        401,
        "its day has come"
    );

    assert_eq!(
        call("DELETE", &format!("{tokens}/2"), "boss", json!({}))
            .await
            .0,
        204
    );
    assert_eq!(
        call("DELETE", &format!("{tokens}/2"), "boss", json!({}))
            .await
            .0,
        404
    );
    assert!(gitlab.live_tokens().is_empty());
    assert_eq!(gitlab.tokens().len(), 2);
}

#[tokio::test]
async fn github_judges_the_claims_of_a_jwt() {
    let time = FakeClock::new();
    let github = GithubApp::start_with_clock(time.clock()).await.unwrap();
    let at = github.upstream().address();
    let now = time.now().timestamp();
    let jwt = |alg: &str, iss: &str, from: i64, to: i64, signature: &str| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "iss": iss, "iat": now + from, "exp": now + to });
        format!(
            "{}.{}.{signature}",
            part(json!({ "alg": alg })),
            part(claims)
        )
    };
    let mint = async |jwt: &str, id: &str| {
        let path = format!("/app/installations/{id}/access_tokens");
        let headers = [("Authorization", format!("Bearer {jwt}"))];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        ask(at, "POST", &path, &headers, "").await.0
    };
    let good = jwt("RS256", "42", -60, 480, "c2ln");
    for documented in [
        jwt("RS256", "42", -60, 600, "c2ln"),
        jwt("RS256", "Iv23liStandInClient", -60, 600, "c2ln"),
        jwt("RS256", "Iv1.0123456789abcdef", -60, 600, "c2ln"),
    ] {
        assert_eq!(mint(&documented, "7").await, 201, "{documented}");
    }
    assert_eq!(mint(&good, "7").await, 201);
    assert_eq!(github.last_claims().unwrap()["iss"], "42");
    for (bad, why) in [
        (
            jwt("none", "42", -60, 480, "c2ln"),
            "not signed as it should be",
        ),
        (jwt("RS256", "me", -60, 480, "c2ln"), "no App"),
        (jwt("RS256", "42", 60, 480, "c2ln"), "from the future"),
        (jwt("RS256", "42", -60, 0, "c2ln"), "ended"),
        (jwt("RS256", "42", -60, 700, "c2ln"), "too long"),
        ("nonsense".to_owned(), "no JWT"),
    ] {
        assert_eq!(mint(&bad, "7").await, 401, "{why}");
    }
    github.only_installation(8);
    assert_eq!((mint(&good, "7").await, mint(&good, "8").await), (404, 201));
    assert_eq!(mint(&good, "x").await, 404);
    github.verify_with(|jwt| jwt.ends_with(".Z29vZA"));
    assert_eq!(mint(&good, "8").await, 401);
    assert_eq!(
        mint(&jwt("RS256", "42", -60, 480, "Z29vZA"), "8").await,
        201
    );
    assert_eq!(github.issued().len(), 6);
}

#[tokio::test]
async fn every_stand_in_breaks_down_and_is_mended() {
    let github = GithubApp::start().await.unwrap();
    let at = github.upstream().address();
    github.break_down(Fault::Fails(503));
    assert_eq!(ask(at, "POST", "/", &[], "").await.0, 503);
    github.mend();
    assert_eq!(ask(at, "POST", "/", &[], "").await.0, 404);
    assert!(github.url().starts_with("http://127.0.0.1:"));
}
