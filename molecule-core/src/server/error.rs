use std::net::SocketAddr;

use crate::backend::BackendError;
use crate::config::ConfigError;
use crate::secrets::FingerprintError;
use crate::store::StoreError;

/// Why a server could not start, or did not end as it should. `Debug` prints the
/// same text as `Display`, so that `fn main() -> Result<(), StartError>` shows a readable message.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database cannot be used.
    #[error("database: {0}")]
    Database(String),
    /// The configured backend does not work.
    #[error("backend: {0}")]
    Backend(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: std::io::Error,
    },
    /// A second signal came while [`run`](crate::run) shut the server down.
    #[error("interrupted during shutdown: not everything was finished")]
    Interrupted,
}

impl std::fmt::Debug for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Database(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl From<sqlx::Error> for StartError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<FingerprintError> for StartError {
    fn from(error: FingerprintError) -> Self {
        Self::Database(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl From<BackendError> for StartError {
    fn from(error: BackendError) -> Self {
        Self::Backend(format!("{:#}", anyhow::Error::from(error)))
    }
}
