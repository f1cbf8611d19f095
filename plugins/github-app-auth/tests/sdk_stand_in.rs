//! The stand-in of the SDK and the one with its own program agree on what a good
//! request is.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use common::{PUBLIC_KEY, build, configured};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use molecule_hooks::testing::Fault;
use molecule_hooks::testing::github::GithubApp;
use molecule_hooks::{HookErrorKind, TokenRequest};

fn is_signed(jwt: &str) -> bool {
    let key = DecodingKey::from_rsa_pem(PUBLIC_KEY.as_bytes()).unwrap();
    let rules = Validation::new(Algorithm::RS256);
    jsonwebtoken::decode::<serde_json::Value>(jwt, &key, &rules).is_ok()
}

#[tokio::test]
async fn the_exchange_works_against_the_stand_in_of_the_sdk() {
    let github = GithubApp::start().await.unwrap();
    github.verify_with(is_signed);
    github.only_installation(77);
    let hook = build(&configured(&github.url(), "test-only-pkcs8.pem")).unwrap();
    let provider = hook.token_provider().unwrap();

    let token = provider.token(&TokenRequest::admin()).await.unwrap();

    assert_eq!(github.issued(), [token.secret.expose()]);
    assert_eq!(github.last_claims().unwrap()["iss"], "4242");
}

#[tokio::test]
async fn another_key_and_a_broken_github_are_told_apart() {
    let github = GithubApp::start().await.unwrap();
    github.verify_with(is_signed);
    for (key, fault, kind) in [
        ("test-only-other-rsa.pem", None, HookErrorKind::Permanent),
        (
            "test-only-pkcs8.pem",
            Some(Fault::Dead),
            HookErrorKind::Transient,
        ),
    ] {
        if let Some(fault) = fault {
            github.break_down(fault);
        }
        let hook = build(&configured(&github.url(), key)).unwrap();
        let provider = hook.token_provider().unwrap();
        let error = provider.token(&TokenRequest::admin()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert!(github.issued().is_empty());
}
