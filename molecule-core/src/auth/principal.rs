//! Who a caller turned out to be.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};

/// A caller that a gate let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Holds the administrator token.
    Admin,
    /// Holds a live org token.
    Org(OrgToken),
    /// Holds a browser session that the control plane vouches for.
    Session {
        /// The control plane's name for the user.
        user_id: Arc<str>,
    },
    /// Holds a live token of this workspace.
    Workspace(Uuid),
    /// The web canvas of this server, by its signed cookie.
    Canvas,
    /// Nobody asked: development, or a server that never minted a token.
    Open,
}

/// What is remembered of a live org token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrgToken {
    pub(crate) id: Uuid,
    pub(crate) prefix: Arc<str>,
    /// The organisation it is bound to, a workspace.
    pub(crate) org_id: Option<Uuid>,
}

impl Principal {
    /// The name written into `created_by` of what this caller makes.
    pub(crate) fn actor(&self) -> String {
        match self {
            Self::Admin => "admin-token".to_owned(),
            Self::Org(token) => format!("org-token:{}", token.prefix),
            Self::Session { .. } => "session".to_owned(),
            Self::Workspace(id) => format!("workspace-token:{id}"),
            Self::Canvas => "canvas".to_owned(),
            Self::Open => "open".to_owned(),
        }
    }

    /// True for who may act for a workspace: its own token and administrators.
    pub(super) fn speaks_for(&self, workspace: Option<Uuid>) -> bool {
        match self {
            Self::Admin | Self::Org(_) | Self::Session { .. } => true,
            Self::Workspace(id) => Some(*id) == workspace,
            Self::Canvas | Self::Open => false,
        }
    }

    /// Whether this caller may make tokens. The canvas may not: a token would
    /// outlive its cookie.
    ///
    /// # Errors
    /// 403 `the canvas cannot mint tokens`.
    pub(super) fn check_may_mint(&self) -> Result<()> {
        match self {
            Self::Canvas => Err(Error::forbidden("the canvas cannot mint tokens")),
            _ => Ok(()),
        }
    }

    /// The organisation this caller is confined to; the outer none is no
    /// confinement.
    pub(super) fn confined_to(&self) -> Option<Option<Uuid>> {
        match self {
            Self::Org(token) => Some(token.org_id),
            _ => None,
        }
    }

    /// One name per caller, for the limit of minting. Holders of org tokens, who
    /// can make themselves as many as they like, are named by their network.
    pub(super) fn limit_key(&self, network: &str) -> String {
        match self {
            Self::Org(_) => format!("network:{network}"),
            Self::Session { user_id } => format!("session:{user_id}"),
            other => other.actor(),
        }
    }
}
