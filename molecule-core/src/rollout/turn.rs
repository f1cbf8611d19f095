//! Whose turn it is to refresh images: one at a time, and administrators first.

use std::future::Future;

use tokio::sync::{Mutex, MutexGuard, watch};

/// The turn of one server.
pub(super) struct Turn {
    /// True from when an administrator asks until that refresh is over.
    asked: watch::Sender<bool>,
    /// Held by whoever refreshes.
    busy: Mutex<()>,
}

/// The turn of an administrator, for as long as this lives.
pub(super) struct Held<'a> {
    _busy: MutexGuard<'a, ()>,
    _asked: Asked<'a>,
}

struct Asked<'a>(&'a watch::Sender<bool>);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            asked: watch::Sender::new(false),
            busy: Mutex::default(),
        }
    }
}

impl Turn {
    /// Takes the turn for an administrator; none while another one has it. The watcher
    /// gives way, so this does not wait for its pulls.
    pub(super) async fn of_administrator(&self) -> Option<Held<'_>> {
        let ask = |asked: &mut bool| !std::mem::replace(asked, true);
        if !self.asked.send_if_modified(ask) {
            return None;
        }
        let asked = Asked(&self.asked);
        Some(Held {
            _busy: self.busy.lock().await,
            _asked: asked,
        })
    }

    /// Works in the turn of the watcher. None when an administrator asks: what was
    /// under way is dropped, and does no harm if it is done again.
    pub(super) async fn of_watcher<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut asked = self.asked.subscribe();
        let asked = async move {
            // The sender lives as long as we do.
            let _ = asked.wait_for(|asked| *asked).await;
        };
        let work = async {
            let _busy = self.busy.lock().await;
            work.await
        };
        tokio::select! {
            biased;
            () = asked => None,
            done = work => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn administrators_exclude_each_other_and_the_watcher_gives_way() {
        let turn = Turn::default();
        assert_eq!(turn.of_watcher(async { 1 }).await, Some(1));
        let endless = turn.of_watcher(std::future::pending::<()>());
        tokio::pin!(endless);
        assert!(futures_util::poll!(&mut endless).is_pending());
        let asking = turn.of_administrator();
        tokio::pin!(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert_eq!(endless.await, None);
        let held = turn.of_watcher(async { 2 });
        let (held, administrator) = tokio::join!(held, asking);
        assert!(held.is_none() && administrator.is_some());
        assert!(turn.of_administrator().await.is_none());
        drop(administrator);
        assert_eq!(turn.of_watcher(async { 3 }).await, Some(3));
        assert!(turn.of_administrator().await.is_some());
    }
}
