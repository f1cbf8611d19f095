//! Decisions about the content of images. None of them restarts anything: a pin counts
//! from the next boot of a workspace, or from the next refresh of its runtime.

use serde::Deserialize;
use utoipa::ToSchema;

use super::Images;
use super::store::{self, Decision, Running};
use crate::backend::ImageDigest;
use crate::error::{Error, Result};
use crate::store::{Tx, timestamp};

/// Decisions kept per runtime.
pub(super) const KEPT: i64 = 50;
const MAX_NOTES_CHARS: usize = 500;

/// The body of `PUT /admin/runtime-image-pins/:runtime`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct PinRequest {
    /// `sha256:` and 64 lower-case hexadecimal digits, as a registry names the content.
    digest: String,
    /// Why; at most 500 characters on one line.
    notes: Option<String>,
}

/// A decision that was just taken.
pub(super) struct Decided {
    pub(super) decision: Decision,
    /// Workspaces that run, as far as is known, something else than they would now.
    pub(super) needs_restart: i64,
}

impl Images {
    /// Every pin, and what workspaces of these runtimes run.
    pub(super) async fn pins(&self) -> Result<(Vec<Decision>, Vec<Running>)> {
        let db = &self.services.db;
        Ok((store::pins(db).await?, store::running(db).await?))
    }

    /// The decisions about a runtime, newest first.
    ///
    /// # Errors
    /// 400 for an unknown runtime about which nothing was ever decided.
    pub(super) async fn history(&self, runtime: &str) -> Result<Vec<Decision>> {
        self.require_name(runtime)?;
        let history = store::history(&self.services.db, runtime, KEPT).await?;
        if history.is_empty() {
            self.require_known(runtime)?;
        }
        Ok(history)
    }

    /// Pins a runtime to a content. To which it is pinned already is no new decision: it
    /// is the one before, or gets other notes.
    ///
    /// # Errors
    /// 400 for an unknown runtime, and for what is no digest or no note.
    pub(super) async fn pin(
        &self,
        runtime: &str,
        request: PinRequest,
        actor: &str,
    ) -> Result<Decided> {
        self.require_known(runtime)?;
        let digest = ImageDigest::parse(&request.digest).ok_or_else(|| {
            Error::invalid("digest must be sha256: and 64 lower-case hexadecimal digits")
        })?;
        let notes = request.notes.filter(|notes| !notes.is_empty());
        if let Some(notes) = &notes {
            check_notes(notes)?;
        }
        let mut tx = self.begin().await?;
        if let Some(standing) = self.standing(&mut tx, runtime, &digest).await?
            && (notes.is_none() || notes == standing.decision.notes)
        {
            return Ok(standing);
        }
        let decided = self.decide(&mut tx, runtime, Some(digest), notes, actor);
        let decided = decided.await?;
        tx.commit().await?;
        log(&decided, actor);
        Ok(decided)
    }

    /// Clears a pin.
    ///
    /// # Errors
    /// 404 `runtime is not pinned`; 400 if it is unknown as well.
    pub(super) async fn clear(&self, runtime: &str, actor: &str) -> Result<Decided> {
        self.require_name(runtime)?;
        let mut tx = self.begin().await?;
        if store::pin_in(&mut tx, runtime).await?.is_none() {
            // The pin of a runtime that is unknown by now can still be cleared.
            self.require_known(runtime)?;
            return Err(Error::not_found("runtime is not pinned"));
        }
        let decided = self.decide(&mut tx, runtime, None, None, actor).await?;
        tx.commit().await?;
        log(&decided, actor);
        Ok(decided)
    }

    /// Goes back to what was decided before the present decision, also to no pin.
    /// Done twice, it is undone.
    ///
    /// # Errors
    /// 409 `nothing to roll back to`; 400 for an unknown runtime about which nothing
    /// was ever decided.
    pub(super) async fn roll_back(&self, runtime: &str, actor: &str) -> Result<Decided> {
        self.require_name(runtime)?;
        let mut tx = self.begin().await?;
        let history = store::history_in(&mut tx, runtime, KEPT).await?;
        let present = store::pin_in(&mut tx, runtime).await?;
        let earlier = match before(&history, present.as_deref()) {
            Some(earlier) => earlier,
            None => {
                self.require_known(runtime)?;
                return Err(Error::conflict("nothing to roll back to"));
            }
        };
        let digest = earlier.and_then(|earlier| earlier.digest.as_deref());
        let digest = digest.and_then(ImageDigest::parse);
        let notes = earlier.and_then(|earlier| earlier.notes.clone());
        let decided = self.decide(&mut tx, runtime, digest, notes, actor).await?;
        tx.commit().await?;
        log(&decided, actor);
        Ok(decided)
    }

    /// Refuses what not even an older configuration can have named.
    fn require_name(&self, runtime: &str) -> Result<()> {
        match runtime.contains(char::is_control) {
            true => self.require_known(runtime),
            false => Ok(()),
        }
    }

    /// The present decision, if it is this one.
    async fn standing(
        &self,
        tx: &mut Tx,
        runtime: &str,
        digest: &ImageDigest,
    ) -> Result<Option<Decided>> {
        let present = store::pin_in(tx, runtime).await?;
        let newest = store::history_in(tx, runtime, 1).await?.pop();
        let is_this = |found: Option<&str>| found == Some(digest.as_str());
        let newest = newest.filter(|newest| is_this(newest.digest.as_deref()));
        let Some(decision) = newest.filter(|_| is_this(present.as_deref())) else {
            return Ok(None);
        };
        let needs_restart = store::needs_restart(tx, runtime, Some(digest.as_str())).await?;
        Ok(Some(Decided {
            decision,
            needs_restart,
        }))
    }

    /// One decision at a time: each depends on the one before.
    async fn begin(&self) -> Result<Tx> {
        let mut tx = self.services.db.begin().await?;
        store::lock(&mut tx).await?;
        Ok(tx)
    }

    async fn decide(
        &self,
        tx: &mut Tx,
        runtime: &str,
        digest: Option<ImageDigest>,
        notes: Option<String>,
        actor: &str,
    ) -> Result<Decided> {
        let decision = Decision {
            template_name: runtime.to_owned(),
            digest: digest.map(|digest| digest.as_str().to_owned()),
            updated_at: timestamp(&self.services.clock),
            updated_by: Some(actor.to_owned()),
            notes,
        };
        store::decide(tx, &decision, KEPT).await?;
        let needs_restart = store::needs_restart(tx, runtime, decision.digest.as_deref()).await?;
        Ok(Decided {
            decision,
            needs_restart,
        })
    }
}

/// The decision before the present one: the newest that says something else. The inner
/// none is the time before all decisions, the outer one that there is no way back.
fn before<'a>(history: &'a [Decision], present: Option<&str>) -> Option<Option<&'a Decision>> {
    let differs = |decision: &&Decision| decision.digest.as_deref() != present;
    match history.iter().find(differs) {
        Some(earlier) => Some(Some(earlier)),
        // All of them pinned the same: before the first there was no pin.
        None => present.is_some().then_some(None),
    }
}

fn check_notes(notes: &str) -> Result<()> {
    let is_short = notes.chars().count() <= MAX_NOTES_CHARS;
    match is_short && !notes.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "notes must be one line of at most {MAX_NOTES_CHARS} characters"
        ))),
    }
}

fn log(decided: &Decided, actor: &str) {
    let Decision {
        template_name,
        digest,
        ..
    } = &decided.decision;
    let digest = digest.as_deref().unwrap_or("none");
    tracing::info!(
        runtime = template_name,
        digest,
        actor,
        "image pin decided on"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(digests: &[Option<&str>]) -> Vec<Decision> {
        let decision = |digest: &Option<&str>| Decision {
            template_name: "codex".to_owned(),
            digest: digest.map(str::to_owned),
            updated_at: chrono::Utc::now(),
            updated_by: None,
            notes: None,
        };
        digests.iter().map(decision).collect()
    }

    /// Digests newest first, the present one, and where the way back leads.
    type Way = (
        &'static [Option<&'static str>],
        Option<&'static str>,
        Option<Option<&'static str>>,
    );

    #[test]
    fn the_way_back_leads_to_the_newest_decision_that_says_something_else() {
        let table: &[Way] = &[
            (&[], None, None),
            (&[Some("a")], Some("a"), Some(None)),
            (&[Some("a"), Some("a")], Some("a"), Some(None)),
            (&[Some("b"), Some("a")], Some("b"), Some(Some("a"))),
            (
                &[Some("b"), Some("b"), Some("a")],
                Some("b"),
                Some(Some("a")),
            ),
            (&[None, Some("a")], None, Some(Some("a"))),
            (&[Some("a"), None], Some("a"), Some(None)),
            // A pin that was written by other means.
            (&[], Some("a"), Some(None)),
            (&[Some("a")], Some("b"), Some(Some("a"))),
        ];
        for (history, present, expected) in table {
            let decisions = decisions(history);
            let found = before(&decisions, *present);
            let found = found.map(|found| found.and_then(|found| found.digest.as_deref()));
            assert_eq!(found, *expected, "{history:?} {present:?}");
        }
    }

    #[test]
    fn notes_are_one_short_line() {
        assert!(check_notes("released on Tuesday, ok’d by QA").is_ok());
        assert!(check_notes(&"é".repeat(500)).is_ok());
        for bad in ["a\nb", "\0", "a\tb", "\u{7f}", &"a".repeat(501)] {
            assert!(check_notes(bad).is_err(), "{bad:?}");
        }
    }
}
