//! The end of a server with streams on it.

use std::time::Duration;

use molecule_tests::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::strict;
use crate::upstream::Upstream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_ends_well_and_holds_nothing_up() {
    // Given clients that listen
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| {
            config.control_plane.upstream_url = Some(upstream.url.clone());
            config.server.shutdown_timeout_secs = 30;
        })
        .start()
        .await;
    let address = app.url.trim_start_matches("http://").to_owned();
    let mut listening = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(&address).await.expect("connect");
        let request = b"GET /cp/auth/events HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.expect("write");
        let mut seen = String::new();
        while !seen.contains("data: begun") {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.expect("bytes");
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        listening.push(stream);
    }
    // When the server ends
    let started = Instant::now();
    app.shutdown().await;
    // Then it waited for none of them
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    for mut stream in listening {
        let mut rest = String::new();
        let end = timeout(Duration::from_secs(5), stream.read_to_string(&mut rest)).await;
        end.expect("closed").expect("in good order");
        // and each saw an end, not a cut.
        assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_under_way_is_finished() {
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| config.control_plane.upstream_url = Some(upstream.url.clone()))
        .start()
        .await;
    let url = format!("{}/cp/auth/drip", app.url);
    let response = reqwest::get(url).await.expect("a head");
    let (text, _) = tokio::join!(response.text(), app.shutdown());
    assert_eq!(text.expect("all of it"), "drop drop drop drop drop drop ");
}
