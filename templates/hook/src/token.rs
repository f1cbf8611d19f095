//! Where the tokens come from: a file that somebody else keeps fresh. Replace it by a
//! call to the service that issues yours; give that call a timeout and a limit for its
//! answer.

use std::path::PathBuf;
use std::time::Duration;

use molecule_hooks::{Clock, HookError, Token};
use tokio::io::AsyncReadExt as _;

/// No token is longer, in bytes; a longer file is a mistake.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

pub(crate) struct FileTokens {
    pub(crate) path: PathBuf,
    pub(crate) ttl: Duration,
    pub(crate) clock: Clock,
}

impl FileTokens {
    /// The token that is in the file now.
    ///
    /// Errors name neither the path nor what is in the file: they reach the log.
    pub(crate) async fn read(&self) -> Result<Token, HookError> {
        let unreadable =
            |error| HookError::transient("the token file cannot be read").with_source(error);
        // Before the file is read: a token is never said to live longer than it does.
        let now = self.clock.now();
        let file = tokio::fs::File::open(&self.path)
            .await
            .map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_TOKEN_BYTES + 1)
            .read_to_string(&mut text)
            .await
            .map_err(unreadable)?;
        let token = text.trim();
        match token.len() as u64 {
            0 => Err(HookError::transient("the token file is empty")),
            1..=MAX_TOKEN_BYTES => Ok(Token::new(token, now + self.ttl)),
            _ => Err(HookError::permanent(
                "the token file is too long to hold a token",
            )),
        }
    }
}
