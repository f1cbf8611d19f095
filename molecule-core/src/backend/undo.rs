use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

type Compensation = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The compensations of the steps done so far. Steps push onto it as they
/// succeed, or just before they begin when their outcome may stay unknown; on
/// failure [`unwind`](UndoStack::unwind) runs them, last first; on success it is
/// simply dropped.
#[derive(Default)]
pub(crate) struct UndoStack(Vec<(&'static str, Compensation)>);

impl UndoStack {
    /// Remembers how to take back `step`. The future is not polled before
    /// [`unwind`](Self::unwind).
    pub(crate) fn push<F>(&mut self, step: &'static str, compensation: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.0.push((step, Box::pin(compensation)));
    }

    /// Takes every step back, newest first, giving each at most `bound`. A
    /// compensation that fails or hangs is logged and does not keep the others
    /// from running.
    pub(crate) async fn unwind(self, bound: Duration) {
        for (step, compensation) in self.0.into_iter().rev() {
            match tokio::time::timeout(bound, compensation).await {
                Ok(Ok(())) => tracing::debug!(step, "step undone"),
                Ok(Err(error)) => tracing::error!(step, error, "step could not be undone"),
                Err(_) => tracing::error!(step, "undoing the step did not end in time"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn compensations_run_newest_first_whatever_happens_to_the_others() {
        // Given four steps, of which one fails to be undone and one hangs
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = UndoStack::default();
        let note = |name: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().unwrap().push(name)
        };
        let (first, failing, last) = (note("first"), note("failing"), note("last"));
        undo.push("first", async move {
            first();
            Ok(())
        });
        undo.push("failing", async move {
            failing();
            Err("stuck".to_owned())
        });
        undo.push("hanging", std::future::pending());
        undo.push("last", async move {
            last();
            Ok(())
        });

        // When the stack is unwound
        undo.unwind(Duration::from_millis(20)).await;

        // Then every step had its turn, in reverse
        assert_eq!(*order.lock().unwrap(), ["last", "failing", "first"]);
    }

    #[tokio::test]
    async fn a_dropped_stack_undoes_nothing() {
        let touched = Arc::new(Mutex::new(false));
        let mut undo = UndoStack::default();
        let flag = Arc::clone(&touched);
        undo.push("step", async move {
            *flag.lock().unwrap() = true;
            Ok(())
        });
        drop(undo);
        assert!(!*touched.lock().unwrap());
    }
}
