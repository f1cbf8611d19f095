//! The stand-in as its users see it: over HTTP, and as a program.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use github_stand_in::{Behaviour, GithubStandIn, generate_key_pair};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Asks for a token with these claims and returns status and body.
async fn ask(url: &str, private_key: &str, claims: &Value) -> (u16, Value) {
    let key = EncodingKey::from_rsa_pem(private_key.as_bytes()).unwrap();
    let jwt = jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &key).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client
        .post(format!("{url}/app/installations/7/access_tokens"))
        .bearer_auth(jwt)
        .send()
        .await
        .unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

fn claims(iss: Value, iat_offset: i64, exp_offset: i64) -> Value {
    let now = chrono::Utc::now().timestamp();
    json!({"iss": iss, "iat": now + iat_offset, "exp": now + exp_offset})
}

#[tokio::test]
async fn a_good_jwt_gets_a_new_token_each_time() {
    let keys = generate_key_pair().unwrap();
    let github = GithubStandIn::start(&keys.public_key).await.unwrap();
    let good = claims(json!("12"), -60, 480);

    let (status, first) = ask(&github.url(), &keys.private_key, &good).await;
    let (_, second) = ask(&github.url(), &keys.private_key, &good).await;

    assert_eq!(status, 201);
    assert!(first["token"].as_str().unwrap().starts_with("ghs_"));
    assert_ne!(first["token"], second["token"]);
    assert_eq!(github.calls(), 2);
    assert_eq!(github.last_claims().unwrap().iss, "12");
    assert_eq!(github.last_request().unwrap().installation_id, "7");
}

#[tokio::test]
async fn a_wrong_key_or_wrong_claims_are_refused() {
    let keys = generate_key_pair().unwrap();
    let other = generate_key_pair().unwrap();
    let github = GithubStandIn::start(&keys.public_key).await.unwrap();
    let good = claims(json!("12"), -60, 480);

    let (status, body) = ask(&github.url(), &other.private_key, &good).await;
    assert_eq!(status, 401);
    assert_eq!(body["message"], "A JSON web token could not be decoded");

    for bad in [
        claims(json!(12), -60, 480),
        claims(json!("someone"), -60, 480),
        claims(json!("12"), 120, 480),
        claims(json!("12"), -900, -60),
        claims(json!("12"), -60, 900),
        json!({"iss": "12"}),
    ] {
        let (status, _) = ask(&github.url(), &keys.private_key, &bad).await;
        assert_eq!(status, 401, "{bad}");
    }
    assert_eq!(github.last_claims(), None);
}

#[tokio::test]
async fn a_scripted_answer_carries_its_status_body_and_headers() {
    let keys = generate_key_pair().unwrap();
    let github = GithubStandIn::start(&keys.public_key).await.unwrap();
    github.set_behaviour(Behaviour::refuse(429, "slow down").with_header("retry-after", "9"));

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/app/installations/7/access_tokens", github.url());
    let response = client.post(url).send().await.unwrap();

    assert_eq!(response.status().as_u16(), 429);
    assert_eq!(response.headers()["retry-after"], "9");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({"message": "slow down"}));
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_program_makes_a_key_pair_and_serves_tokens_signed_for_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let child = Command::new(env!("CARGO_BIN_EXE_github-stand-in"))
        .args(["--listen", "127.0.0.1:0", "--ttl-secs", "60"])
        .arg("--generate-key")
        .arg(&keys)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = KillOnDrop(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let url = first.strip_prefix("listening on ").unwrap().to_owned();

    let private_key = std::fs::read_to_string(keys.join("private-key.pem")).unwrap();
    let (status, body) = ask(&url, &private_key, &claims(json!("1"), -60, 480)).await;

    assert_eq!(status, 201, "{body}");
    let expires_at = body["expires_at"].as_str().unwrap();
    let expires_at = chrono::DateTime::parse_from_rfc3339(expires_at).unwrap();
    let left = expires_at.to_utc() - chrono::Utc::now();
    assert!(left <= chrono::TimeDelta::seconds(60), "{left}");

    let again = Command::new(env!("CARGO_BIN_EXE_github-stand-in"))
        .args(["--listen", "127.0.0.1:0", "--generate-key"])
        .arg(&keys)
        .output()
        .unwrap();
    assert!(!again.status.success(), "a key must never be overwritten");
}
