//! What agents say of the plugins they have loaded: kept when it changes, which a
//! fingerprint in memory tells without asking the database.

use serde_json::Value;
use uuid::Uuid;

use super::{Presence, store};
use crate::store::timestamp;
use crate::workspaces::LoadedPlugin;

/// A report on plugins that is not known to be stored.
pub(super) struct News {
    pub(super) text: String,
    fingerprint: u64,
}

impl Presence {
    /// What is to be stored of a report, as text; none of what cannot be read.
    pub(super) fn plugins_text(&self, id: Uuid, reported: &Value) -> Option<String> {
        let redact = |text: &str| self.redactor.redact_of(id, text);
        let Some(list) = LoadedPlugin::list(reported, redact) else {
            tracing::debug!(workspace.id = %id, "report on plugins cannot be read; ignored");
            return None;
        };
        serde_json::to_string(&list).ok()
    }

    /// A report that says something else than the one before.
    pub(super) fn news_of_plugins(&self, id: Uuid, reported: &Value) -> Option<News> {
        let text = self.plugins_text(id, reported)?;
        let fingerprint = self.live.fingerprint(&text);
        (self.live.plugins(id) != fingerprint).then_some(News { text, fingerprint })
    }

    /// Stores a report, as far as that can be done now; the next heartbeat tries again.
    pub(super) async fn keep_plugins(&self, id: Uuid, news: News) {
        let now = timestamp(&self.clock);
        match store::set_plugins(&self.db, id, &news.text, now).await {
            Ok(changed) => {
                self.live.set_plugins(id, news.fingerprint);
                if changed {
                    tracing::debug!(workspace.id = %id, "agent has loaded other plugins");
                }
            }
            Err(error) => {
                tracing::debug!(workspace.id = %id, %error, "report on plugins not stored; next time");
            }
        }
    }
}
