use chrono::Utc;
use serde_json::json;

use super::super::Event;
use super::*;

/// Always good.
struct Good;

#[async_trait]
impl Proof for Good {
    async fn holds(&self) -> Option<bool> {
        Some(true)
    }
}

/// Workspaces that all may communicate; the rest exists not.
struct Friends(Vec<Uuid>);

impl Visibility for Friends {
    fn knows(&self, workspace: Uuid) -> bool {
        self.0.contains(&workspace)
    }

    fn may_communicate(&self, client: Uuid, subject: Uuid) -> bool {
        self.knows(client) && self.knows(subject)
    }
}

#[derive(Default)]
struct Changing(Mutex<Option<Arc<Friends>>>);

impl Changing {
    fn set(&self, ids: &[Uuid]) {
        *self.0.lock().unwrap() = Some(Arc::new(Friends(ids.to_vec())));
    }
}

#[async_trait]
impl Reach for Changing {
    async fn snapshot(&self) -> sqlx::Result<Arc<dyn Visibility>> {
        match &*self.0.lock().unwrap() {
            Some(friends) => Ok(Arc::clone(friends) as Arc<dyn Visibility>),
            None => Err(sqlx::Error::PoolTimedOut),
        }
    }

    fn changed(&self) {}
}

fn event(kind: EventType, workspace_id: Uuid, number: usize) -> Frame {
    Frame::new(Event {
        event: kind,
        workspace_id,
        timestamp: Utc::now(),
        payload: json!({ "number": number }),
        id: None,
    })
}

/// A hub with its dispatcher, which begins a new round often.
fn running() -> (Hub, Arc<Changing>) {
    in_rounds_of(Duration::from_millis(20))
}

fn in_rounds_of(round: Duration) -> (Hub, Arc<Changing>) {
    let (hub, reach) = (Hub::new(), Arc::new(Changing::default()));
    hub.set_reach(Arc::clone(&reach) as Arc<dyn Reach>);
    let dispatched = hub.clone();
    tokio::spawn(async move {
        loop {
            dispatched.dispatch(Instant::now() + round).await;
        }
    });
    (hub, reach)
}

async fn listen(hub: &Hub, audience: Audience) -> Subscription {
    hub.subscribe(audience, Arc::new(Good)).await.expect("room")
}

fn number(frame: &Frame) -> u64 {
    frame.event().payload["number"].as_u64().expect("a number")
}

async fn next(subscription: &mut Subscription) -> Result<u64, Ended> {
    let frame = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
    frame
        .expect("something happens")
        .map(|frame| number(&frame))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_let_go_and_costs_the_others_nothing() {
    let (hub, _) = running();
    let mut idle = listen(&hub, Audience::Everything).await;
    let mut busy = listen(&hub, Audience::Everything).await;
    let workspace = Uuid::new_v4();
    for number in 0..5 * BUFFER {
        hub.offer(event(EventType::TaskUpdated, workspace, number));
        assert_eq!(next(&mut busy).await, Ok(number as u64));
    }
    assert_eq!(next(&mut idle).await, Err(Ended::Slow));
    assert_eq!(hub.clients().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_beyond_the_buffer_reaches_who_reads() {
    let (hub, _) = running();
    let mut client = listen(&hub, Audience::Everything).await;
    let reading = tokio::spawn(async move {
        for expected in 0..2_000 {
            assert_eq!(next(&mut client).await, Ok(expected));
        }
    });
    let workspace = Uuid::new_v4();
    for number in 0..2_000 {
        hub.offer(event(EventType::TaskUpdated, workspace, number));
    }
    reading.await.expect("every event");
}

#[tokio::test(start_paused = true)]
async fn who_falls_behind_for_a_moment_keeps_every_event_and_who_stays_behind_does_not() {
    // given a client that reads nothing, and time that passes only when nobody is busy
    let (hub, _) = in_rounds_of(Duration::from_secs(3600));
    let mut client = listen(&hub, Audience::Everything).await;
    let workspace = Uuid::new_v4();
    for number in 0..2 * BUFFER {
        hub.offer(event(EventType::TaskUpdated, workspace, number));
    }
    while client.frames.len() < BUFFER {
        tokio::task::yield_now().await;
    }

    // when it reads again before its slack is over, then nothing is missing
    for expected in 0..2 * BUFFER as u64 {
        assert_eq!(next(&mut client).await, Ok(expected));
    }

    // but when it stays away, it is let go, and the removal of a workspace is no way out
    let mut late = listen(&hub, Audience::Workspace(workspace)).await;
    for number in 0..BUFFER {
        hub.offer(event(EventType::TaskUpdated, workspace, number));
    }
    hub.offer(event(EventType::WorkspaceRemoved, workspace, BUFFER));
    let ended = tokio::time::timeout(Duration::from_secs(10), late.ended()).await;
    assert_eq!(ended.expect("it is let go"), Ended::Slow);
    assert_eq!(next(&mut late).await, Err(Ended::Slow));
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_waited_for_room_is_the_last_that_is_heard() {
    let (hub, _) = in_rounds_of(Duration::from_secs(3600));
    let workspace = Uuid::new_v4();
    let mut client = listen(&hub, Audience::Workspace(workspace)).await;
    for number in 0..BUFFER {
        hub.offer(event(EventType::TaskUpdated, workspace, number));
    }
    hub.offer(event(EventType::WorkspaceRemoved, workspace, BUFFER));
    while client.frames.len() < BUFFER {
        tokio::task::yield_now().await;
    }
    for expected in 0..=BUFFER as u64 {
        assert_eq!(next(&mut client).await, Ok(expected));
    }
    assert_eq!(next(&mut client).await, Err(Ended::Removed));
}

#[tokio::test]
async fn agents_hear_of_whom_they_may_talk_to_and_of_themselves() {
    let (hub, reach) = running();
    let [me, friend, stranger] = [(); 3].map(|()| Uuid::new_v4());
    let mut early = listen(&hub, Audience::Agent(me)).await;
    // No snapshot yet, and none to be had: only what is certain.
    hub.offer(event(EventType::WorkspaceOnline, friend, 1));
    hub.offer(event(EventType::WorkspaceOnline, me, 2));
    assert_eq!(next(&mut early).await, Ok(2));
    reach.set(&[me, friend]);
    hub.offer(event(EventType::WorkspaceOnline, stranger, 3));
    hub.offer(event(EventType::WorkspaceOnline, friend, 4));
    assert_eq!(next(&mut early).await, Ok(4));
    // The database is away: the last answer has to do.
    *reach.0.lock().unwrap() = None;
    hub.offer(event(EventType::WorkspaceOnline, friend, 5));
    assert_eq!(next(&mut early).await, Ok(5));
    reach.set(&[me]);
    hub.offer(event(EventType::WorkspaceOnline, friend, 6));
    hub.offer(event(EventType::WorkspaceOnline, me, 7));
    assert_eq!(next(&mut early).await, Ok(7));
}

#[tokio::test]
async fn a_removal_is_heard_by_those_who_knew_the_workspace() {
    let (hub, reach) = running();
    let [me, friend, stranger] = [(); 3].map(|()| Uuid::new_v4());
    reach.set(&[me, friend]);
    let mut mine = listen(&hub, Audience::Agent(me)).await;
    let mut theirs = listen(&hub, Audience::Agent(friend)).await;
    let mut others = listen(&hub, Audience::Agent(stranger)).await;
    reach.set(&[me]);
    hub.offer(event(EventType::WorkspaceRemoved, friend, 1));
    hub.offer(event(EventType::WorkspaceOffline, friend, 2));
    hub.offer(event(EventType::WorkspaceOnline, me, 3));
    assert_eq!(next(&mut mine).await, Ok(1));
    assert_eq!(next(&mut mine).await, Ok(3));
    assert_eq!(next(&mut theirs).await, Ok(1));
    assert_eq!(next(&mut theirs).await, Err(Ended::Removed));
    hub.offer(event(EventType::WorkspaceOnline, stranger, 4));
    assert_eq!(next(&mut others).await, Ok(4));
}

#[tokio::test]
async fn a_stream_hears_of_its_workspace_only() {
    let (hub, _) = running();
    let [one, two] = [(); 2].map(|()| Uuid::new_v4());
    let mut client = listen(&hub, Audience::Workspace(one)).await;
    hub.offer(event(EventType::WorkspaceOnline, two, 1));
    hub.offer(event(EventType::WorkspaceOnline, one, 2));
    assert_eq!(next(&mut client).await, Ok(2));
}

#[tokio::test]
async fn one_workspace_cannot_take_every_place() {
    let (hub, _) = running();
    let me = Uuid::new_v4();
    let mut places = Vec::new();
    for _ in 0..MAX_PER_WORKSPACE {
        places.push(listen(&hub, Audience::Agent(me)).await);
    }
    let refused = hub.subscribe(Audience::Workspace(me), Arc::new(Good));
    assert!(refused.await.is_err());
    listen(&hub, Audience::Agent(Uuid::new_v4())).await;
    listen(&hub, Audience::Everything).await;
    places.pop();
    listen(&hub, Audience::Workspace(me)).await;
    while hub.clients().len() < MAX_CLIENTS {
        places.push(listen(&hub, Audience::Everything).await);
    }
    let refused = hub.subscribe(Audience::Everything, Arc::new(Good));
    assert!(refused.await.is_err());
    drop(places);
    assert!(!hub.has_clients());
}

#[tokio::test]
async fn who_is_let_go_learns_why_at_once() {
    let (hub, _) = running();
    let me = Uuid::new_v4();
    let mut client = listen(&hub, Audience::Agent(me)).await;
    hub.offer(event(EventType::WorkspaceOnline, me, 1));
    hub.end(client.id, Ended::Refused);
    assert_eq!(next(&mut client).await, Err(Ended::Refused));
    let mut client = listen(&hub, Audience::Agent(me)).await;
    hub.close();
    assert_eq!(next(&mut client).await, Err(Ended::Closing));
    let mut late = listen(&hub, Audience::Agent(me)).await;
    assert_eq!(next(&mut late).await, Err(Ended::Closing));
}

#[tokio::test]
async fn a_dispatcher_that_lost_events_says_so() {
    let hub = Hub::new();
    let mut client = listen(&hub, Audience::Everything).await;
    for number in 0..=BACKLOG {
        hub.offer(event(EventType::TaskUpdated, Uuid::new_v4(), number));
    }
    hub.dispatch(Instant::now() + Duration::from_millis(20))
        .await;
    assert_eq!(next(&mut client).await, Err(Ended::Behind));
    // As after a panic: the receiver is gone.
    let mut client = listen(&hub, Audience::Everything).await;
    drop(hub.receiver().take());
    hub.dispatch(Instant::now()).await;
    assert_eq!(next(&mut client).await, Err(Ended::Behind));
}
