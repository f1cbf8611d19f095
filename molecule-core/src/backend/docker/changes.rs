//! What the daemon tells about our containers, as it happens.
//!
//! An event is a hint: who acts on one looks first. Across connections the time of
//! the last event, by the daemon's clock, says where to go on. The daemon keeps its
//! last few hundred events; when the one we go on from is not among them any more,
//! or the daemon started anew, something may be lost and that is told.
//!
//! Nothing runs on its own here: the stream works while somebody reads it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder};
use chrono::DateTime;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::daemon::CallError;
use super::{Inner, names, plugins};
use crate::backend::scrub::Scrubber;
use crate::backend::{Change, Changes};

/// Attempts to connect are this far apart at first, then twice as far, and so on.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Without a connection somebody has to look for himself this often.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// The daemon repeats what it remembers as soon as it is connected to.
const REPLAY: Duration = Duration::from_secs(5);
/// A connection can die without a word: one that was silent for so long is made anew.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);
/// The first connection also asks for what happened just before.
const OVERLAP: Duration = Duration::from_secs(5);
const NANOS: i64 = 1_000_000_000;
/// A later connection repeats so much.
const REPEATED_NANOS: i64 = NANOS;
/// What is asked about; ends and starts of the main process, removals.
const ACTIONS: [&str; 4] = ["start", "die", "oom", "destroy"];

/// Changes from now on, until `closing` fires.
pub(super) fn watch(inner: Arc<Inner>, closing: CancellationToken) -> Changes {
    let watch = Watch {
        inner,
        closing,
        created: Instant::now(),
        mark: None,
        open: None,
        ready: VecDeque::new(),
        failures: 0,
        missed_at: None,
    };
    let next = |mut watch: Watch| async move { Some((watch.next().await?, watch)) };
    stream::unfold(watch, next).boxed()
}

/// A moment by the daemon's clock, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(i64);

impl Mark {
    /// Before anything a daemon remembers.
    const UNKNOWN: Self = Self(0);

    /// As the daemon reads it; a little earlier. Events that happen together are not
    /// kept in the order of their times, and one of those before shows that the
    /// daemon's memory goes back far enough.
    fn since(self) -> String {
        let nanos = self.0.saturating_sub(REPEATED_NANOS).max(0);
        format!("{}.{:09}", nanos / NANOS, nanos % NANOS)
    }
}

struct Open {
    events: BoxStream<'static, Result<EventMessage, bollard::errors::Error>>,
    opened: Instant,
    /// It told something.
    is_good: bool,
    /// What we go on from, until the daemon has shown whether it still knows it.
    resumes: Option<Mark>,
}

struct Watch {
    inner: Arc<Inner>,
    closing: CancellationToken,
    created: Instant,
    mark: Option<Mark>,
    open: Option<Open>,
    /// Told next; two at most.
    ready: VecDeque<Change>,
    /// Connections in a row that came to nothing.
    failures: u32,
    missed_at: Option<Instant>,
}

impl Watch {
    async fn next(&mut self) -> Option<Change> {
        let closing = self.closing.clone();
        let telling = async {
            loop {
                if let Some(change) = self.ready.pop_front() {
                    return change;
                }
                self.step().await;
            }
        };
        let change = tokio::select! {
            biased;
            () = closing.cancelled() => return None,
            change = telling => change,
        };
        let kind = match change {
            Change::Ended(_) => "ended",
            Change::Started(_) => "started",
            Change::Missed => "missed",
        };
        metrics::counter!("molecule_backend_changes_total", "kind" => kind).increment(1);
        Some(change)
    }

    async fn step(&mut self) {
        let Some(open) = &mut self.open else {
            return self.connect().await;
        };
        let patience = match open.resumes {
            Some(_) => REPLAY,
            None => LONGEST_SILENCE,
        };
        match timeout(patience, open.events.next()).await {
            Ok(Some(Ok(event))) => self.take(&event),
            Ok(Some(Err(error))) => self.lost(&CallError::from(error)),
            Ok(None) => self.lost(&CallError::Broken("the stream ended".to_owned())),
            // It remembers nothing that we know.
            Err(_) if open.resumes.take().is_some() => self.missed(),
            Err(_) => self.open = None,
        }
    }

    async fn connect(&mut self) {
        if let Some(pause) = backoff(self.failures) {
            sleep(pause).await;
        }
        match self.events().await {
            Ok(events) => self.open = Some(events),
            Err(error) => self.lost(&error),
        }
    }

    /// Asks for the events after the mark. Whether the daemon agrees shows in the
    /// first one.
    async fn events(&mut self) -> Result<Open, CallError> {
        let (since, resumes) = match self.mark {
            Some(mark) => (Some(mark), Some(mark)),
            None => {
                let since = beginning(&self.inner, self.created).await?;
                // Late, or from nobody knows when: something was missed.
                let is_whole = since.is_some() && self.failures == 0;
                (since, (!is_whole).then_some(Mark::UNKNOWN))
            }
        };
        self.mark = since;
        let daemon = &self.inner.daemon;
        // The library's limit is on the head of the answer; the body has none.
        let client = daemon
            .client()
            .await?
            .clone()
            .with_timeout(daemon.timeout());
        Ok(Open {
            events: client
                .events(Some(options(&self.inner.instance, since)))
                .boxed(),
            opened: Instant::now(),
            is_good: false,
            resumes,
        })
    }

    fn take(&mut self, event: &EventMessage) {
        let nanos = event.time_nano.filter(|nanos| *nanos > 0);
        let resumes = self.open.as_mut().and_then(|open| {
            open.is_good = true;
            open.resumes.take()
        });
        if resumes.is_some_and(|mark| nanos.is_none_or(|nanos| nanos > mark.0)) {
            self.missed();
        }
        if let Some(nanos) = nanos {
            self.mark = Some(Mark(nanos));
        }
        let change = change_of(event, &self.inner.instance);
        // The daemon starts by itself what ended in the middle of a delivery.
        if let Some(Change::Started(workspace)) = &change
            && let Some(container) = event.actor.as_ref().and_then(|actor| actor.id.clone())
        {
            plugins::repair_later(&self.inner, *workspace, container);
        }
        self.ready.extend(change);
    }

    /// The connection ended, or was never made.
    fn lost(&mut self, error: &CallError) {
        let open = self.open.take();
        // One that lived for longer than an answer may take was a real one.
        let steady = self.inner.daemon.timeout() + OVERLAP;
        let lived = open.as_ref().map(|open| open.opened.elapsed());
        if lived.is_some_and(|lived| lived > steady) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        metrics::counter!("molecule_backend_changes_lost_total").increment(1);
        let error = error.text(&Scrubber::plain());
        tracing::debug!(error, attempt = self.failures, "the daemon's events ended");
        // The end of a good connection is mended soon, and nothing is lost meanwhile.
        let was_good = open.is_some_and(|open| open.is_good);
        let told = |at: Instant| at.elapsed() < LONGEST_BACKOFF;
        if self.failures > 1 && !was_good && !self.missed_at.is_some_and(told) {
            self.missed();
        }
    }

    fn missed(&mut self) {
        self.missed_at = Some(Instant::now());
        if self.ready.back() != Some(&Change::Missed) {
            self.ready.push_back(Change::Missed);
        }
    }
}

/// When the interest began, by the daemon's clock, if the daemon tells the time.
async fn beginning(inner: &Inner, created: Instant) -> Result<Option<Mark>, CallError> {
    let info = inner.daemon.call(|client| client.info()).await?;
    let ago = i64::try_from((created.elapsed() + OVERLAP).as_nanos());
    let nanos = (info.system_time).and_then(|text| nanos_of(&text)?.checked_sub(ago.ok()?));
    Ok(nanos.map(Mark))
}

/// How long to wait after so many failures.
fn backoff(failures: u32) -> Option<Duration> {
    let doubled = 1_u32.checked_shl(failures.checked_sub(1)?);
    let pause = FIRST_BACKOFF.saturating_mul(doubled.unwrap_or(u32::MAX).max(1));
    Some(pause.min(LONGEST_BACKOFF))
}

fn options(instance: &str, since: Option<Mark>) -> EventsOptions {
    let mut filters = names::owned_by(instance);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ACTIONS.map(str::to_owned).into());
    let options = EventsOptionsBuilder::default().filters(&filters);
    match since {
        Some(mark) => options.since(&mark.since()),
        None => options,
    }
    .build()
}

/// A time as the daemon writes it, in nanoseconds.
fn nanos_of(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text)
        .ok()?
        .timestamp_nanos_opt()
}

/// What an event means, if it is about an agent of ours. Does not rely on the
/// daemon's filter.
fn change_of(event: &EventMessage, instance: &str) -> Option<Change> {
    if event.typ != Some(EventMessageTypeEnum::CONTAINER) {
        return None;
    }
    let labels = event.actor.as_ref()?.attributes.as_ref()?;
    let is_ours = labels.get(names::INSTANCE).is_some_and(|of| of == instance);
    let workspace: Uuid = labels.get(names::WORKSPACE)?.parse().ok()?;
    // One that only prepares a volume.
    let is_seed = labels.get("name") == Some(&names::seed(workspace));
    if !is_ours || is_seed {
        return None;
    }
    match event.action.as_deref()? {
        "start" => Some(Change::Started(workspace)),
        "die" | "oom" | "destroy" => Some(Change::Ended(workspace)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "0191a2b3-c4d5-7e6f-8a9b-0c1d2e3f4a5b";

    fn event(value: Value) -> EventMessage {
        serde_json::from_value(value).unwrap()
    }

    fn of_container(action: &str, name: &str, instance: &str, workspace: &str) -> EventMessage {
        event(json!({
            "Type": "container", "Action": action, "time": 1, "timeNano": 1_000_000_001_i64,
            "Actor": { "ID": "abc", "Attributes": {
                "name": name, "exitCode": "137", "molecule.platform.managed": "true",
                "molecule.platform.instance": instance, "molecule.workspace.id": workspace,
            } },
        }))
    }

    #[test]
    fn ends_and_starts_of_our_agents_are_told_and_nothing_else() {
        let id: Uuid = ID.parse().unwrap();
        let name = format!("ws-{ID}");
        let said = |action| change_of(&of_container(action, &name, "a", ID), "a");
        for action in ["die", "oom", "destroy"] {
            assert_eq!(said(action), Some(Change::Ended(id)), "{action}");
        }
        assert_eq!(said("start"), Some(Change::Started(id)));
        for action in ["exec_create: /bin/sh", "create", "kill", "attach", ""] {
            assert_eq!(said(action), None, "{action}");
        }
        for (name, instance, workspace) in [
            (name.as_str(), "b", ID),
            (name.as_str(), "a", "not-a-uuid"),
            (name.as_str(), "a", ""),
            (&format!("ws-{ID}-seed"), "a", ID),
        ] {
            let event = of_container("die", name, instance, workspace);
            assert_eq!(change_of(&event, "a"), None, "{name} {instance}");
        }
    }

    #[test]
    fn events_without_the_usual_fields_mean_nothing() {
        for value in [
            json!({}),
            json!({ "Type": "container" }),
            json!({ "Type": "container", "Action": "die", "Actor": {} }),
            json!({ "Type": "container", "Action": "die", "Actor": { "Attributes": {} } }),
            json!({ "Type": "volume", "Action": "destroy", "Actor": { "Attributes": {
                "molecule.platform.instance": "a", "molecule.workspace.id": ID } } }),
            json!({ "Type": "container", "Actor": { "Attributes": {
                "molecule.platform.instance": "a", "molecule.workspace.id": ID } } }),
        ] {
            assert_eq!(change_of(&event(value.clone()), "a"), None, "{value}");
        }
    }

    #[test]
    fn a_mark_is_written_a_second_earlier_with_nine_digits() {
        for (nanos, text) in [
            (1_700_000_000_000_000_001, "1699999999.000000001"),
            (1_700_000_000_999_999_999, "1699999999.999999999"),
            (0, "0.000000000"),
            (i64::MIN, "0.000000000"),
        ] {
            assert_eq!(Mark(nanos).since(), text);
        }
        assert_eq!(
            nanos_of("2026-01-01T00:00:00.123456789+01:00"),
            Some(1_767_222_000_123_456_789)
        );
        for text in ["", "yesterday", "2026-01-01", "9999-01-01T00:00:00Z"] {
            assert_eq!(nanos_of(text), None, "{text}");
        }
    }

    #[test]
    fn attempts_get_rarer_up_to_a_limit() {
        assert_eq!(backoff(0), None);
        let millis = [1, 2, 3, 8, 9, 40].map(|n| backoff(n).unwrap().as_millis());
        assert_eq!(millis, [100, 200, 400, 12_800, 15_000, 15_000]);
    }

    proptest! {
        #[test]
        fn no_event_of_any_shape_breaks_anything(
            action in ".{0,40}", name in ".{0,80}", workspace in ".{0,40}", nanos: i64,
        ) {
            let mut event = of_container(&action, &name, "a", &workspace);
            event.time_nano = Some(nanos);
            let _ = change_of(&event, "a");
            let since = Mark(nanos).since();
            prop_assert!(since.chars().all(|c| c.is_ascii_digit() || c == '.'), "{since}");
            let _ = nanos_of(&name);
        }
    }
}
