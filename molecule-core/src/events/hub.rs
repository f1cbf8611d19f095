//! Who listens right now, and who of them hears of which event.
//!
//! One dispatcher takes event after event and puts it into the buffer of every
//! client it is for. A client that does not empty its buffer is let go: it costs the
//! others a moment, once, and it knows that it has to read the state anew.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{EventType, Frame};

/// Events that wait for the dispatcher.
const BACKLOG: usize = 8192;
/// Events that a client may fall behind.
const BUFFER: usize = 256;
/// How long the dispatcher waits, all in all, for a client with a full buffer before it
/// lets go of it: whoever reads may be kept from a processor that long. A client that
/// empties its buffer begins anew.
const SLACK: Duration = Duration::from_millis(40);
/// Clients at a time. A server takes 10 000 connections; some are for requests.
const MAX_CLIENTS: usize = 8_000;
/// Clients of one workspace at a time.
const MAX_PER_WORKSPACE: usize = 64;
/// Snapshots that are kept: who was told of a workspace hears of its removal, when
/// the newest snapshot has forgotten it.
const KEPT_SNAPSHOTS: usize = 4;
/// An event waits for a fresh snapshot no longer than this.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(2);

/// Which events a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All of them.
    Everything,
    /// Those of workspaces that this one may communicate with.
    Agent(Uuid),
    /// Those of this workspace.
    Workspace(Uuid),
}

impl Audience {
    fn workspace(self) -> Option<Uuid> {
        match self {
            Self::Everything => None,
            Self::Agent(id) | Self::Workspace(id) => Some(id),
        }
    }
}

/// Why a client hears no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It did not take its events.
    Slow,
    /// Its credentials are no longer good.
    Refused,
    /// Its workspace was removed.
    Removed,
    /// This server lost events that it should have had.
    Behind,
    /// The server shuts down.
    Closing,
}

/// Who may communicate with whom; answered from memory.
#[async_trait]
pub(crate) trait Reach: Send + Sync + 'static {
    /// As of the last change; a query after each.
    async fn snapshot(&self) -> sqlx::Result<Arc<dyn Visibility>>;

    /// Another server changed something.
    fn changed(&self);
}

/// One snapshot of who may communicate with whom.
pub(crate) trait Visibility: Send + Sync {
    /// True when the workspace exists.
    fn knows(&self, workspace: Uuid) -> bool;

    /// True when `client` may communicate with `subject`.
    fn may_communicate(&self, client: Uuid, subject: Uuid) -> bool;
}

/// Proof of a client's right to listen, asked for again now and then.
#[async_trait]
pub(crate) trait Proof: Send + Sync + 'static {
    /// Whether it is still good; none when that cannot be found out now.
    async fn holds(&self) -> Option<bool>;
}

/// The listening clients. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hub(Arc<Inner>);

struct Inner {
    frames: broadcast::Sender<Arc<Frame>>,
    /// The dispatcher's end between two rounds.
    receiver: Mutex<Option<broadcast::Receiver<Arc<Frame>>>>,
    reach: OnceLock<Arc<dyn Reach>>,
    snapshots: Mutex<VecDeque<Arc<dyn Visibility>>>,
    clients: Mutex<HashMap<u64, Client>>,
    count: AtomicUsize,
    next_id: AtomicU64,
    closing: CancellationToken,
}

struct Client {
    audience: Audience,
    frames: mpsc::Sender<Arc<Frame>>,
    end: Arc<End>,
    /// What is left of [`SLACK`].
    slack: Duration,
    proof: Arc<dyn Proof>,
    /// None: nobody could say the last time.
    proven_at: Option<Instant>,
}

#[derive(Default)]
struct End {
    why: OnceLock<Ended>,
    now: CancellationToken,
}

/// A client's end of its buffer. Dropping it ends the subscription.
pub(crate) struct Subscription {
    hub: Hub,
    id: u64,
    frames: mpsc::Receiver<Arc<Frame>>,
    end: Arc<End>,
}

/// There are too many clients already.
#[derive(Debug)]
pub(crate) struct Full;

impl Hub {
    pub(super) fn new() -> Self {
        let (frames, receiver) = broadcast::channel(BACKLOG);
        Self(Arc::new(Inner {
            frames,
            receiver: Mutex::new(Some(receiver)),
            reach: OnceLock::new(),
            snapshots: Mutex::default(),
            clients: Mutex::default(),
            count: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            closing: CancellationToken::new(),
        }))
    }

    /// Says where snapshots come from; without, agents hear of themselves only.
    pub(super) fn set_reach(&self, reach: Arc<dyn Reach>) {
        let _ = self.0.reach.set(reach);
    }

    /// True when anybody listens.
    pub(super) fn has_clients(&self) -> bool {
        self.0.count.load(Ordering::Acquire) > 0
    }

    /// Queues an event for the dispatcher.
    pub(super) fn offer(&self, frame: Frame) {
        if self.has_clients() {
            let _ = self.0.frames.send(Arc::new(frame));
        }
    }

    /// Another server changed who may communicate with whom.
    pub(super) fn reach_changed(&self) {
        if let Some(reach) = self.0.reach.get() {
            reach.changed();
        }
    }

    /// Listens from now on, until the subscription is dropped.
    pub(super) async fn subscribe(
        &self,
        audience: Audience,
        proof: Arc<dyn Proof>,
    ) -> Result<Subscription, Full> {
        if let Audience::Agent(_) = audience {
            // So that even the first event it hears may be a removal.
            self.snapshot().await;
        }
        let (sender, receiver) = mpsc::channel(BUFFER);
        let end = Arc::new(End::default());
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let mut clients = self.clients();
        let same = |client: &&Client| client.audience.workspace() == audience.workspace();
        if clients.len() >= MAX_CLIENTS
            || audience.workspace().is_some()
                && clients.values().filter(same).count() >= MAX_PER_WORKSPACE
        {
            return Err(Full);
        }
        if self.0.closing.is_cancelled() {
            end.finish(Ended::Closing);
        }
        let client = Client {
            audience,
            frames: sender,
            end: Arc::clone(&end),
            slack: SLACK,
            proof,
            proven_at: Some(Instant::now()),
        };
        clients.insert(id, client);
        self.0.count.store(clients.len(), Ordering::Release);
        Ok(Subscription {
            hub: self.clone(),
            id,
            frames: receiver,
            end,
        })
    }

    /// Hands events on until none came for a while, or `ends`.
    pub(super) async fn dispatch(&self, ends: Instant) {
        let kept = { self.receiver().take() };
        let mut frames = match kept {
            Some(frames) => frames,
            None => {
                // The last round did not end as it should: what it held is lost.
                self.end_all(Ended::Behind);
                self.0.frames.subscribe()
            }
        };
        while let Ok(received) = tokio::time::timeout_at(ends.into(), frames.recv()).await {
            match received {
                Ok(frame) => self.hand_on(&frame).await,
                Err(broadcast::error::RecvError::Lagged(_)) => self.end_all(Ended::Behind),
                // The hub itself holds a sender.
                Err(broadcast::error::RecvError::Closed) => break,
            }
            // Clients empty their buffers before more is put into them.
            tokio::task::yield_now().await;
        }
        *self.receiver() = Some(frames);
    }

    async fn hand_on(&self, frame: &Arc<Frame>) {
        let has_agents = |client: &Client| matches!(client.audience, Audience::Agent(_));
        if self.clients().values().any(has_agents) {
            self.snapshot().await;
        }
        let event = frame.event();
        let subject = event.workspace_id;
        let removal = event.event == EventType::WorkspaceRemoved;
        let visible = self.visibility(subject, removal);
        let mut full = Vec::new();
        {
            let mut clients = self.clients();
            clients.retain(|id, client| {
                let wanted = match client.audience {
                    Audience::Everything => true,
                    Audience::Workspace(id) => id == subject,
                    Audience::Agent(id) => {
                        id == subject
                            || (visible.as_ref())
                                .is_some_and(|seen| seen.may_communicate(id, subject))
                    }
                };
                if !wanted {
                    return true;
                }
                if client.frames.capacity() == BUFFER {
                    client.slack = SLACK;
                }
                match client.frames.try_send(Arc::clone(frame)) {
                    Ok(()) => client.goes_on(subject, removal),
                    Err(_) => {
                        full.push((*id, client.frames.clone(), client.slack));
                        true
                    }
                }
            });
            self.0.count.store(clients.len(), Ordering::Release);
        }
        // They all wait at once, so that many cost no more than one.
        let began = Instant::now();
        for (id, frames, slack) in full {
            let left = slack.saturating_sub(began.elapsed());
            self.press(id, &frames, left, frame, removal).await;
        }
    }

    /// Gives a client with a full buffer what is left of its slack to make room.
    async fn press(
        &self,
        id: u64,
        frames: &mpsc::Sender<Arc<Frame>>,
        left: Duration,
        frame: &Arc<Frame>,
        removal: bool,
    ) {
        let began = Instant::now();
        let sent = tokio::time::timeout(left, frames.send(Arc::clone(frame))).await;
        if !matches!(sent, Ok(Ok(()))) {
            metrics::counter!("molecule_live_slow_clients_total").increment(1);
            self.end(id, Ended::Slow);
            return;
        }
        let mut clients = self.clients();
        let Some(client) = clients.get_mut(&id) else {
            return;
        };
        client.slack = left.saturating_sub(began.elapsed());
        if !client.goes_on(frame.event().workspace_id, removal) {
            clients.remove(&id);
            self.0.count.store(clients.len(), Ordering::Release);
        }
    }

    /// The snapshot that decides who hears of a workspace: the newest, or for a
    /// removal the newest that knew it.
    fn visibility(&self, subject: Uuid, removal: bool) -> Option<Arc<dyn Visibility>> {
        let snapshots = self.snapshots();
        let knowing = || snapshots.iter().find(|snapshot| snapshot.knows(subject));
        let found = match removal {
            true => knowing().or_else(|| snapshots.front()),
            false => snapshots.front(),
        };
        found.cloned()
    }

    /// Makes sure that the newest snapshot is kept. When the database does not
    /// answer, the one before has to do.
    async fn snapshot(&self) {
        let Some(reach) = self.0.reach.get() else {
            return;
        };
        match tokio::time::timeout(SNAPSHOT_PATIENCE, reach.snapshot()).await {
            Ok(Ok(fresh)) => {
                let mut snapshots = self.snapshots();
                if !snapshots
                    .front()
                    .is_some_and(|kept| Arc::ptr_eq(kept, &fresh))
                {
                    snapshots.push_front(fresh);
                    snapshots.truncate(KEPT_SNAPSHOTS);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "who may communicate with whom is not known anew");
            }
            Err(_) => tracing::warn!("who may communicate with whom is not known in time"),
        }
    }

    /// Proofs to ask for again: all of them, or those not asked for since `age`. Whoever
    /// gets an answer says so with [`proved`](Self::proved) or [`end`](Self::end); else
    /// they are asked for the next time.
    pub(super) fn unproven(&self, all: bool, age: Duration) -> Vec<(u64, Arc<dyn Proof>)> {
        let mut clients = self.clients();
        let due = clients
            .iter_mut()
            .filter(|(_, client)| all || client.proven_at.is_none_or(|at| at.elapsed() >= age));
        due.map(|(id, client)| {
            client.proven_at = None;
            (*id, Arc::clone(&client.proof))
        })
        .collect()
    }

    /// A client's proof is good.
    pub(super) fn proved(&self, id: u64) {
        if let Some(client) = self.clients().get_mut(&id) {
            client.proven_at = Some(Instant::now());
        }
    }

    /// Lets a client go.
    pub(super) fn end(&self, id: u64, why: Ended) {
        let mut clients = self.clients();
        if let Some(client) = clients.remove(&id) {
            client.end.finish(why);
        }
        self.0.count.store(clients.len(), Ordering::Release);
    }

    /// Lets everybody go.
    pub(super) fn end_all(&self, why: Ended) {
        let mut clients = self.clients();
        for (_, client) in clients.drain() {
            client.end.finish(why);
        }
        self.0.count.store(0, Ordering::Release);
    }

    /// Lets everybody go, now and from now on.
    pub(super) fn close(&self) {
        self.0.closing.cancel();
        self.end_all(Ended::Closing);
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Client>> {
        (self.0.clients.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshots(&self) -> MutexGuard<'_, VecDeque<Arc<dyn Visibility>>> {
        (self.0.snapshots.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    fn receiver(&self) -> MutexGuard<'_, Option<broadcast::Receiver<Arc<Frame>>>> {
        (self.0.receiver.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// False when this event was its last one.
    fn goes_on(&self, subject: Uuid, removal: bool) -> bool {
        let was_last = removal && self.audience.workspace() == Some(subject);
        if was_last {
            // It reads what is in its buffer first.
            let _ = self.end.why.set(Ended::Removed);
        }
        !was_last
    }
}

impl End {
    fn finish(&self, why: Ended) {
        let _ = self.why.set(why);
        self.now.cancel();
    }

    fn why(&self) -> Ended {
        self.why.get().copied().unwrap_or(Ended::Closing)
    }
}

impl Subscription {
    /// The next event. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Arc<Frame>, Ended> {
        tokio::select! {
            biased;
            () = self.end.now.cancelled() => Err(self.end.why()),
            frame = self.frames.recv() => frame.ok_or_else(|| self.end.why()),
        }
    }

    /// Another event, if one is there already.
    pub(super) fn try_next(&mut self) -> Option<Arc<Frame>> {
        self.frames.try_recv().ok()
    }

    /// Waits until the client has to go at once.
    pub(super) async fn ended(&self) -> Ended {
        self.end.now.cancelled().await;
        self.end.why()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.end(self.id, Ended::Closing);
    }
}

#[cfg(test)]
mod tests;
