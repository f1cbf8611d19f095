//! Reading heads and bodies off the wire.

use std::io::{BufRead, Read};

use super::{HttpError, MAX_BODY_BYTES};

const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 100;
const MAX_CHUNK_LINE_BYTES: usize = 256;
const MAX_TRAILER_BYTES: usize = 4 << 10;

/// The start line and the header fields of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The request line or status line.
    pub(crate) start: String,
    headers: Vec<(String, String)>,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By nothing: no body in a request, all until the end in a response.
    Unframed,
    /// By `Content-Length`.
    Length(usize),
    /// By `Transfer-Encoding: chunked`.
    Chunked,
}

impl Head {
    /// Reads a head up to and including its empty line.
    pub(crate) fn read(reader: &mut impl BufRead) -> Result<Self, HttpError> {
        let mut budget = MAX_HEAD_BYTES;
        let start = text(read_line(reader, &mut budget)?)?;
        let mut headers = Vec::new();
        loop {
            let line = text(read_line(reader, &mut budget)?)?;
            if line.is_empty() {
                return Ok(Self { start, headers });
            }
            if headers.len() == MAX_HEADERS {
                return Err(HttpError::HeadTooLarge);
            }
            // A name that is not a token also catches folded lines and blanks
            // before the colon, which proxies disagree about.
            let (name, value) = line
                .split_once(':')
                .filter(|(name, _)| is_token(name))
                .ok_or(HttpError::Malformed("header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The first value of a header; `name` is lower case.
    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        self.values(name).next()
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The method and the target of a request line.
    pub(crate) fn request(&self) -> Result<(&str, &str), HttpError> {
        let words: Vec<&str> = self.start.split(' ').collect();
        match words.as_slice() {
            [method, target, "HTTP/1.1" | "HTTP/1.0"]
                if is_token(method) && target.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok((method, target))
            }
            _ => Err(HttpError::Malformed("request line")),
        }
    }

    /// The status code of a status line.
    pub(crate) fn status(&self) -> Result<u16, HttpError> {
        let code = self
            .start
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.strip_prefix(['0', '1']))
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| rest.split(' ').next())
            .filter(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|code| code.parse().ok());
        match code {
            Some(code @ 100..=599) => Ok(code),
            _ => Err(HttpError::Malformed("status line")),
        }
    }

    /// How the body is delimited. Contradictions are refused, not resolved.
    pub(crate) fn framing(&self) -> Result<Framing, HttpError> {
        let mut codings = self.values("transfer-encoding");
        let mut lengths = self.values("content-length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Framing::Unframed),
            (Some(_), Some(_)) => Err(HttpError::Malformed("framing")),
            (Some(coding), None) => {
                if codings.next().is_none() && coding.eq_ignore_ascii_case("chunked") {
                    Ok(Framing::Chunked)
                } else {
                    Err(HttpError::UnsupportedCoding)
                }
            }
            (None, Some(length)) => {
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                if !digits || lengths.any(|other| other != length) {
                    return Err(HttpError::Malformed("content length"));
                }
                // Digits that do not fit a number are certainly too many.
                let length = length.parse().map_err(|_| HttpError::BodyTooLarge)?;
                if length > MAX_BODY_BYTES {
                    return Err(HttpError::BodyTooLarge);
                }
                Ok(Framing::Length(length))
            }
        }
    }
}

/// Reads the body of a request: without framing there is none.
pub(crate) fn read_request_body(
    reader: &mut impl BufRead,
    framing: Framing,
) -> Result<Vec<u8>, HttpError> {
    match framing {
        Framing::Unframed => Ok(Vec::new()),
        Framing::Length(length) => read_exactly(reader, length),
        Framing::Chunked => read_chunks(reader),
    }
}

/// Reads the body of a response: without framing it ends with the connection.
pub(crate) fn read_response_body(
    reader: &mut impl BufRead,
    framing: Framing,
) -> Result<Vec<u8>, HttpError> {
    if framing != Framing::Unframed {
        return read_request_body(reader, framing);
    }
    let mut body = Vec::new();
    let limit = MAX_BODY_BYTES as u64 + 1;
    reader.take(limit).read_to_end(&mut body)?;
    if body.len() > MAX_BODY_BYTES {
        return Err(HttpError::BodyTooLarge);
    }
    Ok(body)
}

/// Reads `length` bytes, growing as they come: a peer pays for what it claims.
fn read_exactly(reader: &mut impl BufRead, length: usize) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(HttpError::Closed);
    }
    Ok(body)
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    loop {
        let size = chunk_size(reader)?;
        if size > MAX_BODY_BYTES - body.len() {
            return Err(HttpError::BodyTooLarge);
        }
        if size == 0 {
            break;
        }
        body.extend(read_exactly(reader, size)?);
        if !read_line(reader, &mut 2)?.is_empty() {
            return Err(HttpError::Malformed("chunk"));
        }
    }
    let mut budget = MAX_TRAILER_BYTES;
    while !read_line(reader, &mut budget)?.is_empty() {}
    Ok(body)
}

fn chunk_size(reader: &mut impl BufRead) -> Result<usize, HttpError> {
    let mut budget = MAX_CHUNK_LINE_BYTES;
    let line = text(read_line(reader, &mut budget)?)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(HttpError::Malformed("chunk size"));
    }
    usize::from_str_radix(digits, 16).map_err(|_| HttpError::BodyTooLarge)
}

/// Reads one line without its end and takes its length off the budget.
fn read_line(reader: &mut impl BufRead, budget: &mut usize) -> Result<Vec<u8>, HttpError> {
    let mut line = Vec::new();
    reader.take(*budget as u64).read_until(b'\n', &mut line)?;
    let full = line.len() == *budget;
    *budget -= line.len();
    if line.pop() != Some(b'\n') {
        return Err(if full {
            HttpError::HeadTooLarge
        } else {
            HttpError::Closed
        });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

fn text(line: Vec<u8>) -> Result<String, HttpError> {
    let text = String::from_utf8(line).map_err(|_| HttpError::Malformed("head"))?;
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(HttpError::Malformed("head"));
    }
    Ok(text)
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
