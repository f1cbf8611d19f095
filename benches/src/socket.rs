//! A WebSocket client that costs little: it reads frames and decodes no JSON.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const TEXT: u8 = 1;
const PING: u8 = 9;

/// An open WebSocket.
pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read already.
    done: usize,
}

impl Socket {
    /// Opens `/ws` as the agent of a workspace.
    ///
    /// # Errors
    /// What the connection says.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn open(address: SocketAddr, workspace: &str, token: &str) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Little room in the system's buffers: who does not read is noticed sooner.
        socket.set_recv_buffer_size(16 * 1024)?;
        let mut stream = socket.connect(address).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
             x-workspace-id: {workspace}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = Vec::with_capacity(4096);
        let end = loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let head = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(head) = head {
                break head + 4;
            }
        };
        assert!(
            buffer.starts_with(b"HTTP/1.1 101 "),
            "{}",
            String::from_utf8_lossy(&buffer)
        );
        Ok(Self {
            stream,
            buffer,
            done: end,
        })
    }

    /// The next text message; answers pings.
    ///
    /// # Errors
    /// What the connection says; `UnexpectedEof` when the server hung up.
    pub async fn text(&mut self) -> io::Result<&[u8]> {
        loop {
            match frame(&self.buffer[self.done..]) {
                Some((TEXT, start, end)) => {
                    let (start, end) = (self.done + start, self.done + end);
                    self.done = end;
                    return Ok(&self.buffer[start..end]);
                }
                Some((PING, _, end)) => {
                    self.done += end;
                    // A masked pong; the mask is zero, so it changes nothing.
                    self.stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await?;
                }
                Some((_, _, end)) => self.done += end,
                None => {
                    self.buffer.drain(..self.done);
                    self.done = 0;
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }
}

/// Kind, start and end of the first frame, once all of it is there. Servers do not
/// mask.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let kind = bytes.first()? & 0x0f;
    let (start, length) = match bytes.get(1)? & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        length => (2, usize::from(length)),
    };
    let end = start + length;
    (bytes.len() >= end).then_some((kind, start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_all_of_it_is_there() {
        let short = [0x81, 2, b'h', b'i'];
        assert_eq!(frame(&short), Some((TEXT, 2, 4)));
        for end in 0..short.len() {
            assert_eq!(frame(&short[..end]), None);
        }
        let mut long = vec![0x81, 126, 1, 0];
        long.extend([b'x'; 256]);
        assert_eq!(frame(&long), Some((TEXT, 4, 260)));
    }
}
