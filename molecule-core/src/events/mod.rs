//! What happened, for people and machines: `structure_events` and those who listen.
//!
//! A recorded event is inserted in the transaction of the change it describes and
//! published after the commit, so that nobody hears of what did not happen. What is
//! published reaches the receivers inside this process, the clients of `/ws` and of
//! the event streams (`hub`), and the other servers of the database (`bridge`).

mod bridge;
mod frame;
mod hub;
mod model;
mod replay;
pub(crate) mod routes;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::redact::Redactor;
use crate::store::{Db, Relay, Tx, timestamp};
use crate::supervisor::Supervisor;

use bridge::Bridge;
use frame::Frame;
use hub::{Audience, Ended, Full, Hub, Proof, Subscription};
pub(crate) use hub::{Reach, Visibility};
pub use model::{Event, EventType};

/// Events a slow receiver inside the process may fall behind.
const BUS_CAPACITY: usize = 1024;
/// A round of one of this room's loops lasts this long; the loops report
/// themselves as alive after each.
const ROUND: Duration = Duration::from_secs(10);
/// Between two rounds, at least since the start of the first.
const PAUSE: Duration = Duration::from_secs(1);
/// Revocations are noticed this often.
const PROOF_EVERY: Duration = Duration::from_secs(2);
/// A client's credentials are looked at this often even if nothing was revoked.
const PROOF_LASTS: Duration = Duration::from_secs(300);
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
const PROOFS_AT_ONCE: usize = 16;

/// Records and publishes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events(Arc<Inner>);

struct Inner {
    db: Db,
    bus: broadcast::Sender<Event>,
    hub: Hub,
    bridge: Bridge,
    redactor: Redactor,
    clock: molecule_hooks::Clock,
}

impl Events {
    pub(crate) fn new(
        db: Db,
        relay: Relay,
        redactor: Redactor,
        clock: molecule_hooks::Clock,
    ) -> Self {
        Self(Arc::new(Inner {
            db,
            bus: broadcast::Sender::new(BUS_CAPACITY),
            hub: Hub::new(),
            bridge: Bridge::new(relay),
            redactor,
            clock,
        }))
    }

    /// Starts to serve listeners. `revocations` counts what may end credentials;
    /// when it changes, listeners have to prove theirs again.
    pub(crate) fn start(
        &self,
        supervisor: &Supervisor,
        reach: Arc<dyn Reach>,
        revocations: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.0.hub.set_reach(reach);
        let this = self.clone();
        supervisor.every("event-dispatcher", PAUSE, move || {
            let this = this.clone();
            async move { this.0.hub.dispatch(Instant::now() + ROUND).await }
        });
        if self.0.bridge.is_needed() {
            let this = self.clone();
            supervisor.every("event-bridge", PAUSE, move || {
                let this = this.clone();
                async move { this.hear_others(Instant::now() + ROUND).await }
            });
        }
        let this = self.clone();
        let seen = AtomicU64::new(revocations());
        supervisor.every("event-listeners", PROOF_EVERY, move || {
            let now = revocations();
            let revoked = seen.swap(now, Ordering::AcqRel) != now;
            let this = this.clone();
            async move { this.prove_again(revoked).await }
        });
    }

    /// Ends every stream and socket, so that a shutdown need not wait for them.
    pub(crate) fn close(&self) {
        self.0.hub.close();
    }

    /// Inserts an event in the caller's transaction. Publish the result after
    /// the commit.
    pub(crate) async fn record(
        &self,
        tx: &mut Tx,
        event: EventType,
        workspace_id: Uuid,
        payload: Value,
    ) -> sqlx::Result<Event> {
        let mut event = self.event(event, workspace_id, payload);
        let id = Uuid::now_v7();
        store::insert(tx, id, &event).await?;
        event.id = Some(id);
        Ok(event)
    }

    /// Sends a recorded event to everybody who listens, here and on other servers.
    pub(crate) fn publish(&self, event: Event) {
        tracing::debug!(
            event = event.event.as_str(),
            workspace.id = %event.workspace_id,
            "event"
        );
        self.tell_everybody(event);
    }

    /// Sends an event that is not kept.
    pub(crate) fn broadcast(
        &self,
        event: EventType,
        workspace_id: Uuid,
        payload: impl FnOnce() -> Value,
    ) {
        let inner = &self.0;
        let is_heard = inner.bus.receiver_count() > 0 || inner.hub.has_clients();
        if is_heard || inner.bridge.wants(event) {
            self.tell_everybody(self.event(event, workspace_id, payload()));
        }
    }

    /// Everything from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.bus.subscribe()
    }

    fn event(&self, event: EventType, workspace_id: Uuid, mut payload: Value) -> Event {
        self.0.redactor.redact_json_of(workspace_id, &mut payload);
        Event {
            event,
            workspace_id,
            timestamp: timestamp(&self.0.clock),
            payload,
            id: None,
        }
    }

    fn tell_everybody(&self, event: Event) {
        let frame = Frame::new(event);
        self.0.bridge.tell(&frame);
        self.hand_on(frame);
    }

    /// Gives an event to everybody who listens here. False when they had it.
    fn hand_on(&self, frame: Frame) -> bool {
        let inner = &self.0;
        if !inner.bridge.is_new(frame.event()) {
            return false;
        }
        if inner.bus.receiver_count() > 0 {
            let _ = inner.bus.send(frame.event().clone());
        }
        inner.hub.offer(frame);
        true
    }

    async fn listen(
        &self,
        audience: Audience,
        proof: Arc<dyn Proof>,
    ) -> Result<Subscription, Full> {
        self.0.hub.subscribe(audience, proof).await
    }

    /// Lets listeners go whose credentials are no longer good.
    async fn prove_again(&self, revoked: bool) {
        let unproven = self.0.hub.unproven(revoked, PROOF_LASTS);
        futures_util::stream::iter(unproven)
            .for_each_concurrent(PROOFS_AT_ONCE, |(id, proof)| async move {
                match tokio::time::timeout(PROOF_TIMEOUT, proof.holds()).await {
                    Ok(Some(true)) => self.0.hub.proved(id),
                    Ok(Some(false)) => self.0.hub.end(id, Ended::Refused),
                    // A datastore that does not answer refuses nobody, and is asked again.
                    Ok(None) | Err(_) => {}
                }
            })
            .await;
    }
}

#[cfg(test)]
mod tests;
