//! The fence around build functions.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::HookError;
use crate::secret::redact_token_shapes;

/// How the names of the threads begin on which hooks are built. What panics there is
/// reported with the other problems, without secrets; a program may keep its own output
/// of such a panic back.
pub const BUILD_THREAD: &str = "hook build ";

/// Calls a build function on a thread of its own, inside the caller's runtime if there is
/// one: neither a panic nor a wait without end hides what else is wrong. A thread that
/// does not come back is left to the end of the process, which follows.
///
/// # Errors
/// What went wrong and what to do, without the name of the hook.
pub(super) fn bounded<T: Send + 'static>(
    name: &str,
    limit: Duration,
    build: impl FnOnce() -> Result<Option<T>, HookError> + Send + 'static,
) -> Result<Option<T>, String> {
    let (send, built) = sync_channel(1);
    let runtime = tokio::runtime::Handle::try_current().ok();
    let subscriber = tracing::dispatcher::get_default(Clone::clone);
    let work = move || {
        let _inside = runtime.as_ref().map(tokio::runtime::Handle::enter);
        let build = || tracing::dispatcher::with_default(&subscriber, build);
        let built = catch_unwind(AssertUnwindSafe(build));
        // Nobody waits any more when it took too long.
        let _ = send.send(built);
    };
    thread::Builder::new()
        .name(format!("{BUILD_THREAD}{name}"))
        .spawn(work)
        .map_err(|error| format!("no thread could be started to build it: {error}"))?;
    match built.recv_timeout(limit) {
        Ok(Ok(built)) => built.map_err(|error| error.chain()),
        Ok(Err(panic)) => Err(format!(
            "it panicked while it was built: {}; this is a bug in the hook, and without its `use` line \
             the server starts without it",
            redact_token_shapes(text_of(panic.as_ref()))
        )),
        Err(RecvTimeoutError::Timeout) => Err(format!(
            "it was not built within {} s (hooks.build_timeout_secs); a build function must not wait for \
             what may not come, and without its `use` line the server starts without it",
            limit.as_secs()
        )),
        Err(RecvTimeoutError::Disconnected) => {
            Err("its build function ended without a result".to_owned())
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
