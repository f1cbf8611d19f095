use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const PERIOD: Duration = Duration::from_secs(15);

fn supervisor() -> Supervisor {
    Supervisor::new(Clock::system())
}

/// A counter, and work that counts it up and then does what it is told.
fn counting() -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    (Arc::clone(&count), count)
}

#[tokio::test(start_paused = true)]
async fn a_loop_runs_at_once_and_every_period_and_tells_so() {
    // Given
    let supervisor = supervisor();
    let (count, counted) = counting();
    supervisor.every("loop", PERIOD, move || {
        count.fetch_add(1, Ordering::Relaxed);
        async {}
    });

    // When three periods pass
    tokio::time::sleep(PERIOD * 3 + Duration::from_secs(1)).await;

    // Then
    assert_eq!(counted.load(Ordering::Relaxed), 4);
    assert!(supervisor.ticks()["loop"].since.elapsed() < PERIOD);
    assert_eq!(supervisor.shutdown(PERIOD).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_first_round_that_hangs_is_seen_to_be_late() {
    let supervisor = supervisor();
    supervisor.every("stuck", PERIOD, pending::<()>);

    tokio::time::sleep(PERIOD * 100).await;

    assert!(supervisor.ticks()["stuck"].since.elapsed() >= PERIOD * 100);
    // And it does not hold up a shutdown
    assert_eq!(supervisor.shutdown(PERIOD).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_panics_or_ends_by_itself_is_started_again_with_backoff() {
    for panics in [true, false] {
        // Given a task that ends at once
        let supervisor = supervisor();
        let (count, counted) = counting();
        supervisor.run("listener", move || {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                if panics {
                    panic!("on purpose");
                }
            }
        });

        // When 1 + 2 + 4 + 8 + 16 + 30 seconds pass
        tokio::time::sleep(Duration::from_secs(62)).await;

        // Then it was started again after each pause
        assert_eq!(counted.load(Ordering::Relaxed), 7, "panics: {panics}");
        assert_eq!(supervisor.shutdown(PERIOD).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn health_resets_the_backoff() {
    // Given a task that fails five times, works for two minutes and fails again
    let supervisor = supervisor();
    let (count, counted) = counting();
    supervisor.run("moody", move || {
        let call = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if call == 5 {
                tokio::time::sleep(Duration::from_secs(120)).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(31 + 120) + Duration::from_millis(500)).await;
    assert_eq!(counted.load(Ordering::Relaxed), 6);

    // When the first backoff passes
    tokio::time::sleep(Duration::from_secs(1)).await;

    // Then it runs again already
    assert_eq!(counted.load(Ordering::Relaxed), 7);
    supervisor.shutdown(PERIOD).await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_holds_a_loop_back_starts_it_at_once_and_cancels_its_round() {
    // Given a loop with an hour between its rounds, behind a closed gate
    let supervisor = supervisor();
    let (gate, watched) = watch::channel(false);
    let (count, counted) = counting();
    let (done, finished) = counting();
    supervisor.every_while("gated", Duration::from_secs(3600), watched, move || {
        count.fetch_add(1, Ordering::Relaxed);
        let done = Arc::clone(&done);
        async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(counted.load(Ordering::Relaxed), 0);

    // When it opens, closes in the middle of the round, and opens again
    for (open, secs) in [(true, 5), (false, 60), (true, 11)] {
        gate.send_replace(open);
        tokio::time::sleep(Duration::from_secs(secs)).await;
    }

    // Then both rounds began at once, and only the second one was finished
    assert_eq!(counted.load(Ordering::Relaxed), 2);
    assert_eq!(finished.load(Ordering::Relaxed), 1);
    supervisor.shutdown(PERIOD).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_work_that_must_end_and_counts_what_does_not() {
    let supervisor = supervisor();
    let (count, counted) = counting();
    supervisor.spawn("short", async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        count.fetch_add(1, Ordering::Relaxed);
    });
    supervisor.spawn("endless", pending());
    assert_eq!(supervisor.shutdown(PERIOD).await, 1);
    assert_eq!(counted.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn work_runs_while_its_gate_is_open() {
    // Given work that never ends, behind a closed gate
    let supervisor = supervisor();
    let (count, counted) = counting();
    let (gate, open) = watch::channel(false);
    supervisor.run_while("listener", open, move || {
        count.fetch_add(1, Ordering::Relaxed);
        pending()
    });
    tokio::time::sleep(PERIOD).await;
    assert_eq!(counted.load(Ordering::Relaxed), 0);

    // When the gate opens, closes and opens, then it begins twice
    for (is_open, begun) in [(true, 1), (false, 1), (true, 2)] {
        gate.send_replace(is_open);
        tokio::time::sleep(PERIOD).await;
        assert_eq!(counted.load(Ordering::Relaxed), begun, "open: {is_open}");
    }
    assert_eq!(supervisor.shutdown(PERIOD).await, 0);
}
