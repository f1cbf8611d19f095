//! Tracked plugins by upstream, so that many rows cost one look-up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_hooks::{PluginRef, PluginSource};
use uuid::Uuid;

use super::super::source::{SourceRef, Sources};
use super::super::store::drift::Followed;
use super::super::track::Track;

/// Longest pause after failures, in intervals.
const MOST_INTERVALS: u32 = 32;
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// One row, without what the group knows.
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) workspace_id: Uuid,
    pub(super) plugin_name: String,
    pub(super) tracked_ref: Arc<str>,
    pub(super) installed_sha: String,
    pub(super) dismissed_sha: Option<String>,
    pub(super) pending_sha: Option<String>,
    /// Index into the references of its group.
    pub(super) wanted: usize,
}

/// Rows whose questions one look-up answers.
pub(super) struct Group {
    pub(super) source: Arc<dyn PluginSource>,
    pub(super) scheme: String,
    pub(super) upstream: String,
    pub(super) refs: Vec<PluginRef>,
    pub(super) members: Vec<Member>,
    /// When the longest waiting of them was looked at.
    oldest: DateTime<Utc>,
    /// One of them was not looked at, or long enough ago.
    due: bool,
}

/// Collects rows page by page.
#[derive(Default)]
pub(super) struct Groups {
    by_upstream: HashMap<(String, String), Group>,
    /// Texts that many rows share.
    texts: BTreeMap<String, Arc<str>>,
    /// Rows without an upstream to ask.
    pub(super) without: Vec<Uuid>,
    pub(super) rows: usize,
}

impl Groups {
    /// Puts a row where it belongs.
    pub(super) fn add(
        &mut self,
        row: Followed,
        sources: &Sources,
        interval: Duration,
        now: DateTime<Utc>,
    ) {
        self.rows += 1;
        let found = SourceRef::parse(&row.source_raw).ok().and_then(|named| {
            let source = sources.get(&named.scheme)?;
            let upstream = source.upstream(&named.spec)?;
            Some((source, named.scheme, upstream))
        });
        let wanted = Track::parse(&row.tracked_ref)
            .ok()
            .and_then(|track| track.wanted());
        let (Some((source, scheme, upstream)), Some(wanted)) = (found, wanted) else {
            self.without.push(row.id);
            return;
        };
        let group = self
            .by_upstream
            .entry((scheme.clone(), upstream.clone()))
            .or_insert_with(|| Group {
                source,
                scheme,
                upstream,
                refs: Vec::new(),
                members: Vec::new(),
                oldest: row.last_look,
                due: false,
            });
        let wanted = match group.refs.iter().position(|known| *known == wanted) {
            Some(known) => known,
            None => {
                group.refs.push(wanted);
                group.refs.len() - 1
            }
        };
        group.oldest = group.oldest.min(row.last_look);
        group.due |= is_due(row.last_look, row.check_failures, interval, now);
        let tracked_ref = match self.texts.get(&row.tracked_ref) {
            Some(text) => Arc::clone(text),
            None => {
                let text: Arc<str> = row.tracked_ref.as_str().into();
                self.texts.insert(row.tracked_ref, Arc::clone(&text));
                text
            }
        };
        group.members.push(Member {
            id: row.id,
            workspace_id: row.workspace_id,
            plugin_name: row.plugin_name,
            tracked_ref,
            installed_sha: row.installed_sha,
            dismissed_sha: row.dismissed_sha,
            pending_sha: row.pending_sha,
            wanted,
        });
    }

    /// The groups to ask about, least recently looked at first, and how many rest
    /// after failures.
    pub(super) fn due(self) -> (Vec<Group>, usize) {
        let all = self.by_upstream.into_values();
        let (mut due, resting): (Vec<_>, Vec<_>) = all.partition(|group| group.due);
        due.sort_by_key(|group| group.oldest);
        (due, resting.len())
    }
}

/// Whether to look again: always after a success, and after failures once a pause is
/// over that doubles with each. The pause ends half an interval early, so that the look
/// it is meant for does not just miss it.
fn is_due(last_look: DateTime<Utc>, failures: i32, interval: Duration, now: DateTime<Utc>) -> bool {
    let failures = u32::try_from(failures).unwrap_or(0);
    if failures == 0 {
        return true;
    }
    let intervals = 1_u32.checked_shl(failures - 1).unwrap_or(MOST_INTERVALS);
    let pause = (interval * intervals.min(MOST_INTERVALS)).min(LONGEST_PAUSE);
    // A look in the future was made by a clock that was set back since.
    let since = (now - last_look).to_std();
    since.map_or(true, |since| since + interval / 2 >= pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_rests_longer_each_time_and_a_day_at_most() {
        let (hour, now) = (Duration::from_secs(3600), Utc::now());
        let due = |failures, minutes| {
            is_due(
                now - chrono::TimeDelta::minutes(minutes),
                failures,
                hour,
                now,
            )
        };
        assert!(due(0, 0), "nothing failed");
        assert!(due(1, 60) && !due(1, 10), "the next round");
        assert!(!due(2, 60) && due(2, 120), "the round after the next");
        assert!(!due(3, 180) && due(3, 240));
        assert!(!due(1000, 23 * 60) && due(1000, 24 * 60));
        assert!(due(5, -60), "a clock was set back");
        assert!(due(-3, 0), "no number of failures");
    }
}
