use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::guard::{
    Policy,
    tests::{Scripted, guard},
};
use super::*;

/// Answers every connection with these bytes; returns its port and, later, the
/// requests it got.
async fn upstream(answer: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let send = send.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let _ = send.send(String::from_utf8_lossy(&request[..length]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    (port, received)
}

async fn vetted(resolver: &Arc<Scripted>, url: &str) -> VettedUrl {
    guard(resolver.clone())
        .vet(url, Policy::Inspected)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_name_that_answers_differently_the_second_time_leads_nowhere_else() {
    // Given a name whose second answer would be the metadata service
    let (port, mut requests) = upstream("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let rebinding = Scripted::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let url = vetted(&rebinding, &format!("http://agent.example:{port}/a2a")).await;

    // When the vetted URL is called
    let limits = Limits::default();
    let client = url.client(&limits).unwrap();
    let answer = client.get(url.url().clone()).send().await.unwrap();

    // Then the first answer counts, and nobody asked again
    assert_eq!(read_body(answer, &limits).await.unwrap(), b"hi");
    assert_eq!(rebinding.asked.load(Ordering::Relaxed), 1);
    let request = requests.recv().await.unwrap().to_lowercase();
    assert!(
        request.contains(&format!("host: agent.example:{port}")),
        "{request}"
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let (port, mut requests) = upstream(
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let resolver = Scripted::new(&[&["127.0.0.1"]]);
    let url = vetted(&resolver, &format!("http://agent.example:{port}")).await;
    let client = url.client(&Limits::default()).unwrap();
    let answer = client.get(url.url().clone()).send().await.unwrap();
    assert_eq!(answer.status(), 302);
    requests.recv().await.unwrap();
    assert!(requests.try_recv().is_err(), "one request");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_a_length() {
    let limits = Limits {
        max_body_bytes: 4,
        ..Limits::default()
    };
    for (answer, fits) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n1234", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12345", false),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
            false,
        ),
    ] {
        let (port, _requests) = upstream(answer).await;
        let url = vetted(
            &Scripted::new(&[&["127.0.0.1"]]),
            &format!("http://127.0.0.1:{port}"),
        )
        .await;
        let client = url.client(&limits).unwrap();
        let answer = client.get(url.url().clone()).send().await.unwrap();
        let read = read_body(answer, &limits).await;
        match fits {
            true => assert_eq!(read.unwrap(), b"1234"),
            false => assert!(matches!(read, Err(CallError::TooLarge(4)))),
        }
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_given_up() {
    let (port, _requests) = upstream("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    let limits = Limits {
        total: Duration::from_millis(200),
        ..Limits::default()
    };
    let url = vetted(
        &Scripted::new(&[&["127.0.0.1"]]),
        &format!("http://127.0.0.1:{port}"),
    )
    .await;
    let client = url.client(&limits).unwrap();
    let ended = async {
        let answer = client.get(url.url().clone()).send().await?;
        read_body(answer, &limits).await
    };
    assert!(matches!(ended.await, Err(CallError::Failed(_))));
}
