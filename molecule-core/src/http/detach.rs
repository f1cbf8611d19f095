//! Changes are made to their end, also when the client leaves in the middle: what
//! follows a commit (events, caches that forget, agents that start) must follow it.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use super::middleware::{Shell, failed};

/// Answers requests that may change something in a task of their own, which ends by
/// the same deadline as the request.
pub(super) async fn to_the_end(
    State(shell): State<Shell>,
    request: Request,
    next: Next,
) -> Response {
    // A call that is passed on to an agent ends with its caller.
    if request.method().is_safe() || shell.is_bounded_by_caller(&request) {
        return next.run(request).await;
    }
    let (sender, answer) = oneshot::channel();
    let limit = shell.limit_of(&request);
    let answering = tokio::time::timeout(limit, next.run(request));
    let work = async move {
        // Nobody listens any more when the client left.
        let _ = sender.send(answering.await);
    };
    (shell.supervisor()).spawn("request", work.instrument(Span::current()));
    match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => failed("the request took too long"),
        Err(_) => failed("the handler panicked"),
    }
}
