//! Who is anybody at all.

use http::HeaderMap;
use uuid::Uuid;

use super::{Auth, TokenHash, bearer};
use crate::error::Result;

impl Auth {
    /// Lets in who holds a live token of whatever workspace, and administrators.
    ///
    /// # Errors
    /// 401 with the registry's texts; 503.
    pub(crate) async fn somebody(&self, headers: &HeaderMap) -> Result<()> {
        if let Some(bearer) = bearer(headers)
            && (self.lookup(bearer, TokenHash::of(bearer)).await?).is_some()
        {
            return Ok(());
        }
        // No workspace has this id, so that only administrators pass.
        self.own_or_admin(Uuid::nil(), headers).await.map(drop)
    }
}
