use std::io::ErrorKind;
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
    #[error("cannot listen on {address}: {cause}{}", listen_advice(cause))]
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

/// What to do about an address that cannot be listened on.
fn listen_advice(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::AddrInUse => "; end what listens there, or choose another server.port (PORT)",
        ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose another server.port (PORT)"
        }
        ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: correct server.address (MOLECULE_ADDRESS)"
        }
        _ => "",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_does_not_work_names_the_setting_to_change() {
        for (kind, setting) in [
            (ErrorKind::AddrInUse, "server.port (PORT)"),
            (ErrorKind::PermissionDenied, "server.port (PORT)"),
            (
                ErrorKind::AddrNotAvailable,
                "server.address (MOLECULE_ADDRESS)",
            ),
        ] {
            let address = SocketAddr::from(([127, 0, 0, 1], 80));
            let cause = kind.into();
            let said = StartError::Listen { address, cause }.to_string();
            assert!(said.ends_with(setting), "{said}");
        }
    }
}
