use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// The claims of an App JWT.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Claims {
    /// The App's id, as a string.
    pub iss: String,
    /// When it was issued, Unix seconds.
    pub iat: i64,
    /// When it ends, Unix seconds.
    pub exp: i64,
}

/// GitHub takes a JWT whose end is at most this far away.
const LONGEST: TimeDelta = TimeDelta::minutes(10);

/// Checks signature and claims as GitHub does; the error is GitHub's text.
pub(crate) fn verify(
    jwt: &str,
    key: &DecodingKey,
    now: DateTime<Utc>,
) -> Result<Claims, &'static str> {
    let mut rules = Validation::new(Algorithm::RS256);
    // Times are checked below, against the clock of the stand-in.
    rules.validate_exp = false;
    rules.set_required_spec_claims(&["iss", "exp"]);
    let claims = jsonwebtoken::decode::<Claims>(jwt, key, &rules)
        .map_err(|_| "A JSON web token could not be decoded")?
        .claims;
    let now = now.timestamp();
    if claims.iss.is_empty() || !claims.iss.bytes().all(|b| b.is_ascii_digit()) {
        return Err("'Issuer' claim ('iss') must be the id of an App");
    }
    if claims.iat > now {
        return Err("'Issued at' claim ('iat') must not be in the future");
    }
    if claims.exp <= now {
        return Err("'Expiration time' claim ('exp') must be in the future");
    }
    if claims.exp > now + LONGEST.num_seconds() || claims.exp - claims.iat > LONGEST.num_seconds() {
        return Err("'Expiration time' claim ('exp') is too far in the future");
    }
    Ok(claims)
}
