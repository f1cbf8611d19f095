use molecule_hooks::{HookError, Secret};
use serde_json::json;

use crate::api::{Api, Grant, LookUp};
use crate::file::{self, FileError};

/// How we prove to Vault who we are.
pub(crate) enum Login {
    /// With a token that somebody else made.
    Token(Secret),
    /// With a role id and a secret id, which is read anew for each login so that
    /// it can be exchanged under a running server.
    AppRole {
        mount: String,
        role_id: Secret,
        secret_id_file: String,
    },
    /// With the service account token of the pod, which Kubernetes exchanges.
    Kubernetes {
        mount: String,
        role: String,
        jwt_file: String,
    },
}

impl Login {
    /// One login, or a look at the token that is given.
    pub(crate) async fn grant(&self, api: &Api) -> Result<Grant, HookError> {
        match self {
            Self::Token(token) => match api.look_up(token).await? {
                LookUp::Known(info) => Ok(Grant {
                    client_token: token.clone(),
                    lease_duration: info.ttl,
                    renewable: info.renewable,
                }),
                // It works until a read says otherwise.
                LookUp::NotAllowed => Ok(Grant {
                    client_token: token.clone(),
                    lease_duration: 0,
                    renewable: false,
                }),
                LookUp::Dead => Err(HookError::permanent(
                    "vault does not take the configured token; it ended or was revoked",
                )),
            },
            Self::AppRole {
                mount,
                role_id,
                secret_id_file,
            } => {
                let secret_id = read("secret_id_file", secret_id_file).await?;
                let body = json!({ "role_id": role_id.expose(), "secret_id": secret_id.expose() });
                api.log_in(mount, &body).await
            }
            Self::Kubernetes {
                mount,
                role,
                jwt_file,
            } => {
                let jwt = read("jwt_file", jwt_file).await?;
                let body = json!({ "role": role, "jwt": jwt.expose() });
                api.log_in(mount, &body).await
            }
        }
    }

    /// True when a token that ends can be followed by a new one.
    pub(crate) fn can_repeat(&self) -> bool {
        !matches!(self, Self::Token(_))
    }
}

async fn read(key: &'static str, path: &str) -> Result<Secret, HookError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || file::read_secret(&path)).await;
    match read {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(FileError::Empty)) => {
            Err(HookError::transient(format!("the file of {key} is empty")))
        }
        // The kind only: neither errors nor the log name the path.
        Ok(Err(FileError::Io(error))) => Err(HookError::transient(format!(
            "the file of {key} cannot be used: {}",
            error.kind()
        ))),
        Err(_) => Err(HookError::transient("reading a file was interrupted")),
    }
}
