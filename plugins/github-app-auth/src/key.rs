use std::fs::File;
use std::io::{self, Read as _};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use molecule_hooks::{HookError, Secret};
use serde::Serialize;

/// More than any RSA key needs; keeps a device or a log file from being read.
const LARGEST_KEY_BYTES: u64 = 64 * 1024;

/// Set back from now, so that a clock slightly ahead of GitHub's does not matter.
const ISSUED_AGO: TimeDelta = TimeDelta::seconds(60);
const ENDS_IN: TimeDelta = TimeDelta::minutes(8);

#[derive(Serialize)]
struct Claims {
    iss: String,
    iat: i64,
    exp: i64,
}

/// Reads and tries the private key. The error is one sentence for the operator
/// and holds nothing of the file.
pub(crate) fn load(path: &str) -> Result<EncodingKey, String> {
    if path.is_empty() {
        return Err(needed(""));
    }
    if path.contains("-----BEGIN") || path.contains('\n') {
        return Err(needed(", but holds a key instead of a path"));
    }
    let text = read(path).map_err(|error| format!("read private key {path:?}: {error}"))?;
    parse(&text).map_err(|what| format!("init github-app-auth: githubapp: {what}"))
}

fn needed(more: &str) -> String {
    format!("GITHUB_APP_PRIVATE_KEY_FILE is required (path to the App's RSA private key PEM){more}")
}

fn read(path: &str) -> io::Result<Secret> {
    let file = File::open(path)?;
    // Reading a pipe or a device could block for ever.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    let read = file.take(LARGEST_KEY_BYTES + 1).read_to_string(&mut text);
    let text = Secret::new(text);
    match read {
        Ok(_) if text.expose().len() as u64 > LARGEST_KEY_BYTES => {
            Err(io::Error::other("larger than a private key can be"))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(error),
    }
}

fn parse(text: &Secret) -> Result<EncodingKey, &'static str> {
    // Keys that travelled through an environment variable have the two
    // characters \n for each line end.
    let text = Secret::new(text.expose().replace("\\n", "\n"));
    let text = text.expose();
    if !text.contains("-----BEGIN ") {
        return Err("no PEM block found");
    }
    if text.contains("ENCRYPTED") {
        return Err("parse private key: it is encrypted; remove its passphrase first");
    }
    let key = EncodingKey::from_rsa_pem(text.as_bytes())
        .map_err(|_| "parse private key: not an RSA private key (PKCS#1 or PKCS#8)")?;
    // Some keys load and then cannot sign: public ones and short ones.
    sign(&key, 1, DateTime::UNIX_EPOCH)
        .map_err(|_| "parse private key: it cannot sign; use an RSA private key of 2048 bits")?;
    Ok(key)
}

/// An App JWT: the proof that we hold the App's key.
pub(crate) fn sign(
    key: &EncodingKey,
    app_id: u64,
    now: DateTime<Utc>,
) -> Result<Secret, HookError> {
    let claims = Claims {
        iss: app_id.to_string(),
        iat: (now - ISSUED_AGO).timestamp(),
        exp: (now + ENDS_IN).timestamp(),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, key)
        .map(Secret::new)
        .map_err(|_| HookError::permanent("sign app jwt: the private key does not work"))
}
