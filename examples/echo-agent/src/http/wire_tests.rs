use super::*;

fn head(bytes: &[u8]) -> Result<Head, HttpError> {
    Head::read(&mut &bytes[..])
}

fn chunks(bytes: &[u8]) -> Result<Vec<u8>, HttpError> {
    read_request_body(&mut &bytes[..], Framing::Chunked)
}

#[test]
fn a_plain_request_is_read() {
    let head = head(b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length:  5 \r\n\r\nhello").unwrap();
    assert_eq!(head.request(), Ok(("POST", "/a?b")));
    assert_eq!(head.header("host"), Some("x"));
    assert_eq!(head.framing(), Ok(Framing::Length(5)));
}

#[test]
fn a_plain_response_is_read() {
    let response = head(b"HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n").unwrap();
    assert_eq!(response.status(), Ok(200));
    assert_eq!(response.framing(), Ok(Framing::Chunked));
    assert_eq!(head(b"HTTP/1.0 404\r\n\r\n").unwrap().status(), Ok(404));
}

#[test]
fn hostile_heads_are_refused() {
    let long_line = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 20_000]].concat();
    let many = [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"A:\r\n".repeat(101),
        b"\r\n".to_vec(),
    ]
    .concat();
    for (bytes, expected) in [
        (b"".as_slice(), HttpError::Closed),
        (b"GET / HTTP/1.1", HttpError::Closed),
        (b"GET / HTTP/1.1\r\nA: b\r\n", HttpError::Closed),
        (&long_line, HttpError::HeadTooLarge),
        (&many, HttpError::HeadTooLarge),
        (
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            HttpError::Malformed("header"),
        ),
        (
            b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
            HttpError::Malformed("header"),
        ),
        (
            b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            HttpError::Malformed("header"),
        ),
        (
            b"GET / HTTP/1.1\r\n: b\r\n\r\n",
            HttpError::Malformed("header"),
        ),
        (
            b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n",
            HttpError::Malformed("head"),
        ),
        (
            b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            HttpError::Malformed("head"),
        ),
        (
            b"GET / HTTP/1.1\r\nA: \0\r\n\r\n",
            HttpError::Malformed("head"),
        ),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(head(bytes), Err(expected), "{shown:?}");
    }
}

#[test]
fn broken_start_lines_are_refused() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET / HTTP/2",
        "GET  / HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /a b HTTP/1.1",
    ] {
        let head = head(format!("{line}\r\n\r\n").as_bytes()).unwrap();
        assert!(head.request().is_err(), "{line:?}");
    }
    for line in [
        "",
        "HTTP/1.1",
        "HTTP/1.1 20",
        "HTTP/1.1 2000",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1 099 X",
        "HTTP/1.1 600 X",
        "HTTP/2 200 OK",
        "ICY 200 OK",
    ] {
        let head = head(format!("{line}\r\n\r\n").as_bytes()).unwrap();
        assert!(head.status().is_err(), "{line:?}");
    }
}

#[test]
fn contradictory_framing_is_refused() {
    for (fields, expected) in [
        (
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            HttpError::Malformed("framing"),
        ),
        (
            "Content-Length: 1\r\nContent-Length: 2",
            HttpError::Malformed("content length"),
        ),
        ("Content-Length: +1", HttpError::Malformed("content length")),
        ("Content-Length: -1", HttpError::Malformed("content length")),
        (
            "Content-Length: 0x1",
            HttpError::Malformed("content length"),
        ),
        ("Content-Length:", HttpError::Malformed("content length")),
        ("Content-Length: 1048577", HttpError::BodyTooLarge),
        (
            "Content-Length: 99999999999999999999999",
            HttpError::BodyTooLarge,
        ),
        (
            "Transfer-Encoding: gzip, chunked",
            HttpError::UnsupportedCoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            HttpError::UnsupportedCoding,
        ),
    ] {
        let head = head(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(head.framing(), Err(expected), "{fields}");
    }
    let same = head(b"POST / HTTP/1.1\r\nContent-Length: 7\r\ncontent-length: 7\r\n\r\n").unwrap();
    assert_eq!(same.framing(), Ok(Framing::Length(7)));
}

#[test]
fn chunked_bodies_are_joined() {
    let body =
        chunks(b"5\r\nhello\r\n1;ext=\"v\"\r\n,\r\n006\r\n world\r\n0\r\nTrailer: x\r\n\r\n");
    assert_eq!(body.unwrap(), b"hello, world");
    assert_eq!(chunks(b"0\r\n\r\n").unwrap(), b"");
}

#[test]
fn hostile_chunks_are_refused() {
    let long_size = [b'0'; 300];
    let endless_trailers = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(1000)].concat();
    for (bytes, expected) in [
        (b"".as_slice(), HttpError::Closed),
        (b"5\r\nhel", HttpError::Closed),
        (b"5\r\nhello\r\n", HttpError::Closed),
        (b"0\r\n", HttpError::Closed),
        (b"\r\n", HttpError::Malformed("chunk size")),
        (b"-1\r\n", HttpError::Malformed("chunk size")),
        (b"+1\r\n", HttpError::Malformed("chunk size")),
        (b"0x1\r\n", HttpError::Malformed("chunk size")),
        (b"100001\r\n", HttpError::BodyTooLarge),
        (b"ffffffffffffffff\r\n", HttpError::BodyTooLarge),
        (b"fffffffffffffffff\r\n", HttpError::BodyTooLarge),
        (&long_size, HttpError::HeadTooLarge),
        (&endless_trailers, HttpError::HeadTooLarge),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert_eq!(chunks(bytes), Err(expected), "{shown:?}");
    }
    // Longer than its size said: the line after the data is not empty.
    assert!(chunks(b"1\r\nhello\r\n0\r\n\r\n").is_err());
}

#[test]
fn many_small_chunks_cannot_pass_the_cap() {
    let flood = [b"8000\r\n".to_vec(), vec![b'x'; 0x8000], b"\r\n".to_vec()].concat();
    assert_eq!(chunks(&flood.repeat(33)), Err(HttpError::BodyTooLarge));
}

#[test]
fn a_body_without_framing_ends_with_the_connection() {
    let body = read_response_body(&mut &b"to the end"[..], Framing::Unframed);
    assert_eq!(body.unwrap(), b"to the end");
    let endless = std::io::repeat(b'x');
    let mut endless = std::io::BufReader::new(endless);
    assert_eq!(
        read_response_body(&mut endless, Framing::Unframed),
        Err(HttpError::BodyTooLarge)
    );
    assert_eq!(
        read_request_body(&mut &b"x"[..], Framing::Unframed).unwrap(),
        b""
    );
    assert_eq!(
        read_request_body(&mut &b"x"[..], Framing::Length(2)),
        Err(HttpError::Closed)
    );
}

#[test]
fn hostile_bytes_never_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let alphabet =
        b"GET / HTTP/1.1\r\n\n:Content-LengthTransfer-Encoding: chunked0123456789af\0\xff\xc3 \t;";
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..96 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(alphabet[(state % alphabet.len() as u64) as usize]);
        }
        if let Ok(head) = head(&bytes) {
            let _ = (head.request(), head.status(), head.framing());
        }
        let _ = chunks(&bytes);
    }
}
