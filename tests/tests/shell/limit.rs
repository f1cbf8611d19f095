//! How often somebody may ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use chrono::{TimeDelta, Utc};
use molecule_hooks::Clock;
use molecule_tests::{ADMIN, Engine, Reply, TestApp, TestAppBuilder};
use serde_json::json;

use crate::support::{Agent, raw, strict};

/// A path that is not exempt and asks no database.
const PATH: &str = "/nothing";

fn limited(limit: u64) -> TestAppBuilder {
    strict(Engine::Sqlite).config(|config| config.server.rate_limit = limit)
}

fn remaining(reply: &Reply) -> u64 {
    let text = reply.header("x-ratelimit-remaining").expect("a header");
    text.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_counts_down_and_one_too_many_is_a_429() {
    let app = limited(5).start().await;
    let paths = [
        PATH,
        "/workspaces",
        "/openapi.json",
        "/registry/register",
        "/workspaces/x",
    ];
    for (asked, path) in (1..).zip(paths) {
        let reply = app.get(path).send().await;
        assert_eq!(reply.header("x-ratelimit-limit"), Some("5"), "{path}");
        assert_eq!(remaining(&reply), 5 - asked, "{path}");
        let reset: u64 = reply
            .header("x-ratelimit-reset")
            .and_then(|v| v.parse().ok())
            .expect("secs");
        assert!((1..=60).contains(&reset), "{reset}");
    }
    for _ in 0..3 {
        let reply = app.get(PATH).send().await;
        let wait: u64 = reply
            .header("retry-after")
            .and_then(|v| v.parse().ok())
            .expect("secs");
        assert!((1..=60).contains(&wait), "{wait}");
        let expected = json!({ "error": "rate limit exceeded", "retry_after": wait });
        assert_eq!((reply.status, reply.json()), (429, expected));
        assert_eq!(reply.header("x-ratelimit-limit"), Some("5"));
        assert_eq!(remaining(&reply), 0);
        assert_eq!(
            reply.header("x-ratelimit-reset"),
            Some(wait.to_string().as_str())
        );
        // The rest of the shell is there, too.
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    // A page may read why.
    let origin = "http://localhost:3000";
    let reply = app.get(PATH).header("origin", origin).send().await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_never_told_to_come_back_later() {
    let app = limited(1).start().await;
    for _ in 0..5 {
        for path in ["/health", "/metrics", "/readyz"] {
            let reply = app.get(path).send().await;
            assert_eq!(reply.status, 200, "{path}");
            let limits = reply
                .headers
                .keys()
                .filter(|name| name.as_str().starts_with("x-ratelimit"));
            assert_eq!(limits.count(), 0, "{path}");
        }
    }
    assert_eq!(app.get(PATH).send().await.status, 404);
    assert_eq!(app.get(PATH).send().await.status, 429);
    // Only these paths, not what looks like them.
    for path in ["/health/", "/healthz", "/metrics?x=1/../health"] {
        let reply = app.get(path).send().await;
        assert!(
            path.starts_with("/metrics?") || reply.status == 429,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn development_without_an_administrator_counts_nobody() {
    let app = TestApp::builder(Engine::Sqlite)
        .config(|config| config.server.rate_limit = 1)
        .start()
        .await;
    for _ in 0..5 {
        let reply = app.get(PATH).send().await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.header("x-ratelimit-limit"), Some("unlimited"));
        assert_eq!(reply.header("x-ratelimit-remaining"), None);
        assert_eq!(reply.header("x-ratelimit-reset"), None);
    }
    assert_eq!(
        app.get("/health").send().await.header("x-ratelimit-limit"),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_valid_credential_is_counted_alone() {
    let app = limited(50).start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let other = Agent::start(&app, json!({ "name": "two" })).await;
    // Known from its first use on.
    for agent in [&agent, &other] {
        assert_eq!(agent.register(&app).send().await.status, 200);
    }
    let before = remaining(&app.get(PATH).send().await);
    let of = |token: &str| app.get(PATH).bearer(token).send();
    assert_eq!(remaining(&of(&agent.token).await), 49);
    assert_eq!(remaining(&of(&agent.token).await), 48);
    assert_eq!(remaining(&of(&other.token).await), 49);
    // Nobody else paid for them.
    assert_eq!(remaining(&app.get(PATH).send().await), before - 1);
    // The address is used up; credentials work on.
    for _ in 0..before {
        app.get(PATH).send().await;
    }
    assert_eq!(app.get(PATH).send().await.status, 429);
    assert_eq!(of(&agent.token).await.status, 404);
    assert_eq!(
        app.get("/workspaces").bearer(ADMIN).send().await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invented_credential_buys_nothing() {
    let app = limited(10).start().await;
    for guess in 0..10 {
        let reply = app
            .get("/workspaces")
            .bearer(&format!("guess-{guess}"))
            .send()
            .await;
        assert_eq!((reply.status, remaining(&reply)), (401, 9 - guess));
    }
    assert_eq!(
        app.get("/workspaces")
            .bearer("guess-10")
            .send()
            .await
            .status,
        429
    );
    // The administrator is not locked out by who guesses from the same address.
    assert_eq!(
        app.get("/workspaces").bearer(ADMIN).send().await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_no_credential_any_more() {
    let app = limited(1000).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let of = || app.get(PATH).bearer(&agent.token).send();
    assert_eq!(remaining(&of().await), 999);
    let path = format!("/workspaces/{}?confirm=true", agent.id);
    assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
    let address = remaining(&app.get(PATH).send().await);
    assert_eq!(remaining(&of().await), address - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_counted_apart_and_forged_ones_are_not_believed() {
    let app = limited(3).start().await;
    let from = |address: [u8; 4]| {
        let client = reqwest::Client::builder().local_address(Some(address.into()));
        client.build().expect("a client")
    };
    let (one, two) = (from([127, 0, 0, 1]), from([127, 0, 0, 2]));
    let url = format!("{}{PATH}", app.url);
    for forged in ["1.1.1.1", "2.2.2.2", "3.3.3.3"] {
        let reply = one
            .get(&url)
            .header("x-forwarded-for", forged)
            .send()
            .await
            .expect("a reply");
        assert_eq!(reply.status(), 404);
    }
    for name in [
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "cf-connecting-ip",
        "x-client-ip",
    ] {
        let reply = one
            .get(&url)
            .header(name, "9.9.9.9")
            .send()
            .await
            .expect("a reply");
        assert_eq!(reply.status(), 429, "{name}");
    }
    assert_eq!(two.get(&url).send().await.expect("a reply").status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_proxies_tell_who_the_client_is() {
    let app = limited(100)
        .config(|config| {
            config.server.trusted_proxies = vec!["127.0.0.0/8".to_owned(), "10.0.0.0/8".to_owned()];
        })
        .start()
        .await;
    let via =
        async |chain: &str| remaining(&app.get(PATH).header("x-forwarded-for", chain).send().await);
    assert_eq!(via("203.0.113.1").await, 99);
    assert_eq!(via("203.0.113.2").await, 99);
    // What the client invents stands left of what the proxy adds.
    assert_eq!(via("8.8.8.8, 203.0.113.1").await, 98);
    assert_eq!(via("203.0.113.2, 203.0.113.1, 10.1.2.3").await, 97);
    // One customer has a whole /64.
    assert_eq!(via("2001:db8::1").await, 99);
    assert_eq!(via("2001:db8::ffff").await, 98);
    assert_eq!(via("2001:db8:0:1::1").await, 99);
    // Nonsense is the proxy's own.
    assert_eq!(via("nonsense").await, 99);
    assert_eq!(via("203.0.113.1, nonsense").await, 98);
    assert_eq!(remaining(&app.get(PATH).send().await), 97);
    // Several lines are one list.
    let reply = app
        .get(PATH)
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-for", "203.0.113.77, 10.0.0.1")
        .send()
        .await;
    assert_eq!(remaining(&reply), 99);
    assert_eq!(via("203.0.113.77").await, 98);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mebibyte_of_forged_hops_is_refused_or_answered() {
    let app = limited(1_000_000)
        .config(|config| config.server.trusted_proxies = vec!["127.0.0.1".to_owned()])
        .start()
        .await;
    let chain: String = (0..80_000)
        .map(|n| format!("10.{}.{}.1,", n / 256 % 256, n % 256))
        .collect();
    assert!(chain.len() > 1024 * 1024 * 9 / 10);
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-forwarded-for: {chain}\r\n\r\n"
    );
    let answer = raw(&app, request.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    // Distinct strangers, each a window of its own: the server goes on.
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    for stranger in 0..500 {
        let hop = format!("198.51.{}.{}", stranger / 250, stranger % 250);
        let reply = app.get(PATH).header("x-forwarded-for", &hop).send().await;
        assert_eq!(remaining(&reply), 999_999);
    }
    assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_exactly_the_limit_is_served() {
    let app = Arc::new(limited(40).start().await);
    let asking = (0..120).map(|_| {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.get(PATH).send().await.status })
    });
    let mut served = 0;
    for asked in asking.collect::<Vec<_>>() {
        match asked.await.expect("no panic") {
            404 => served += 1,
            status => assert_eq!(status, 429),
        }
    }
    assert_eq!(served, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_locks_nobody_out_or_in() {
    let offset = Arc::new(AtomicI64::new(0));
    let shifted = Arc::clone(&offset);
    let clock = Clock::from_fn(move || Utc::now() + TimeDelta::seconds(shifted.load(SeqCst)));
    let app = limited(4).clock(clock).start().await;
    for (jump, left) in [(0, 3), (-86_400, 2), (86_400, 1), (-1_000_000, 0)] {
        offset.store(jump, SeqCst);
        let reply = app.get(PATH).send().await;
        assert_eq!((reply.status, remaining(&reply)), (404, left), "{jump}");
        let reset: u64 = reply
            .header("x-ratelimit-reset")
            .and_then(|v| v.parse().ok())
            .expect("secs");
        assert!(reset <= 60, "{reset} after {jump}");
    }
    let reply = app.get(PATH).send().await;
    assert_eq!(reply.status, 429);
    let wait: u64 = reply
        .header("retry-after")
        .and_then(|v| v.parse().ok())
        .expect("secs");
    assert!(wait <= 60, "{wait}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cors_refuses_is_not_counted() {
    let app = limited(2).start().await;
    for _ in 0..5 {
        let reply = app
            .get(PATH)
            .header("origin", "https://evil.example")
            .send()
            .await;
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("x-ratelimit-limit"), None);
    }
    assert_eq!(remaining(&app.get(PATH).send().await), 1);
}
