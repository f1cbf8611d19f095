//! Org tokens (§7.3): administrators with a name, which can be revoked one by one.

use molecule_hooks::Secret;
use uuid::Uuid;

use super::mint_limit::Standing;
use super::store::org::{NewOrgToken, OrgTokenRow};
use super::token::prefix;
use super::{Auth, Principal, store};
use crate::error::{Error, Result};
use crate::store::{Db, Tx, timestamp};

/// Tokens a list shows at most.
const MOST_LISTED: i64 = 500;
const LONGEST_NAME_BYTES: usize = 100;

/// A token that was just minted; its text is shown once.
pub(super) struct MintedOrgToken {
    pub(super) id: Uuid,
    pub(super) prefix: String,
    pub(super) name: Option<String>,
    pub(super) org_id: Option<Uuid>,
    pub(super) token: Secret,
}

impl Auth {
    /// Counts an attempt to mint from `network`. None in development, where nothing
    /// is limited.
    pub(super) fn count_mint(&self, who: &Principal, network: &str) -> Option<Standing> {
        if self.is_fail_open() {
            return None;
        }
        Some(
            self.mint_limit
                .count(&who.limit_key(network), self.clock.now()),
        )
    }

    /// The live tokens, newest first.
    ///
    /// # Errors
    /// 500 `failed to list tokens`; 503.
    pub(super) async fn org_tokens(&self) -> Result<Vec<OrgTokenRow>> {
        let rows = store::org::list(&self.db, MOST_LISTED).await;
        rows.map_err(|error| Error::from(error).says("failed to list tokens"))
    }

    /// Mints a token in the name of `who`. Without an `org_id` it gets that of the
    /// org token which mints it, if one does.
    ///
    /// # Errors
    /// 400 for a bad name; 403 for the canvas; 403 `org access denied` when an org token wants another
    /// organisation than its own; 404 `org not found`; 500 `failed to mint token`;
    /// 503.
    pub(super) async fn mint_org_token(
        &self,
        who: &Principal,
        name: Option<String>,
        org_id: Option<Uuid>,
    ) -> Result<MintedOrgToken> {
        who.check_may_mint()?;
        let name = name.filter(|name| !name.is_empty());
        if let Some(name) = &name {
            check_name(name)?;
        }
        let org_id = match (who.confined_to(), org_id) {
            (Some(own), None) => own,
            (_, org_id) => org_id,
        };
        check_org(who, org_id)?;
        let minted = self.write_org_token(who, name, org_id).await;
        let minted = minted.map_err(|error| error.says("failed to mint token"))?;
        tracing::info!(token.id = %minted.id, actor = who.actor(), "org token minted");
        Ok(minted)
    }

    async fn write_org_token(
        &self,
        who: &Principal,
        name: Option<String>,
        org_id: Option<Uuid>,
    ) -> Result<MintedOrgToken> {
        let token = self.mint()?;
        let id = Uuid::new_v4();
        let mut tx = self.db.begin().await?;
        require_org(&mut tx, org_id).await?;
        let new = NewOrgToken {
            id,
            token: &token,
            name: name.as_deref(),
            created_by: &who.actor(),
            org_id,
            now: timestamp(&self.clock),
        };
        store::org::insert(&mut tx, &new).await?;
        // A server that has an org token is not up for grabs any more.
        store::mark_server(&mut tx).await?;
        tx.commit().await?;
        Ok(MintedOrgToken {
            id,
            prefix: prefix(&token),
            name,
            org_id,
            token,
        })
    }

    /// Binds a live token to an organisation, or to none.
    ///
    /// # Errors
    /// 403 `org access denied` as for minting, and when an org token wants to change
    /// one of another organisation; 404 `org not found` or `token not
    /// found or already revoked`; 500 `failed to update token`; 503.
    pub(super) async fn bind_org_token(
        &self,
        who: &Principal,
        id: &str,
        org_id: Option<Uuid>,
    ) -> Result<OrgTokenRow> {
        let id = Uuid::try_parse(id).map_err(|_| unknown())?;
        check_org(who, org_id)?;
        let (db, confined_to, failed) =
            (self.db.clone(), who.confined_to(), "failed to update token");
        let binding = async move {
            let bound = bind(&db, confined_to, id, org_id).await;
            bound.map_err(|error| error.says(failed))
        };
        let row = self.change(id, failed, binding).await?;
        tracing::info!(token.id = %id, actor = who.actor(), "org token bound");
        Ok(row)
    }

    /// # Errors
    /// 404 `token not found or already revoked`; 500 `failed to revoke`; 503.
    pub(super) async fn revoke_org_token(&self, who: &Principal, id: &str) -> Result<Uuid> {
        let id = Uuid::try_parse(id).map_err(|_| unknown())?;
        let (db, now) = (self.db.clone(), timestamp(&self.clock));
        let failed = "failed to revoke";
        let revoking = async move {
            let revoked = store::org::revoke(&db, id, now).await;
            revoked.map_err(|error| Error::from(error).says(failed))
        };
        if !self.change(id, failed, revoking).await? {
            return Err(unknown());
        }
        tracing::info!(token.id = %id, actor = who.actor(), "org token revoked");
        Ok(id)
    }
}

/// An org token hands out its own organisation and no other: else it could make
/// itself one that passes the checks which ask for the organisation.
fn check_org(who: &Principal, org_id: Option<Uuid>) -> Result<()> {
    match who.confined_to() {
        Some(own) if own != org_id => Err(Error::forbidden("org access denied")),
        _ => Ok(()),
    }
}

async fn bind(
    db: &Db,
    confined_to: Option<Option<Uuid>>,
    id: Uuid,
    org_id: Option<Uuid>,
) -> Result<OrgTokenRow> {
    let mut tx = db.begin().await?;
    require_org(&mut tx, org_id).await?;
    if let Some(own) = confined_to {
        // Locked, so that it is still bound so when it is changed.
        let bound = store::org::lock(&mut tx, id).await?.ok_or_else(unknown)?;
        if bound != own {
            return Err(Error::forbidden("org access denied"));
        }
    }
    let row = store::org::set_org(&mut tx, id, org_id).await?;
    tx.commit().await?;
    row.ok_or_else(unknown)
}

async fn require_org(tx: &mut Tx, org_id: Option<Uuid>) -> Result<()> {
    match org_id {
        // Locked, so that it is not removed before the token is there.
        Some(id) if !store::lock(tx, id).await? => Err(Error::not_found("org not found")),
        _ => Ok(()),
    }
}

/// Names stand in lists that people read: what rearranges or breaks a line is
/// refused.
fn check_name(name: &str) -> Result<()> {
    if name.len() > LONGEST_NAME_BYTES {
        return Err(Error::invalid(format!(
            "name too long (max {LONGEST_NAME_BYTES} chars)"
        )));
    }
    if name.chars().any(|c| c.is_control() || is_bidi_control(c)) {
        return Err(Error::invalid("name must not contain control characters"));
    }
    Ok(())
}

/// Marks that change the direction of the text around them.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn unknown() -> Error {
    Error::not_found("token not found or already revoked")
}
