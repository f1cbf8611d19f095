//! Lines for the operator. Nothing here ever receives a token or a body.

use std::io::Write as _;

/// Writes one line to standard error.
///
/// A closed standard error must not end the agent, so failures are dropped;
/// `eprintln!` would panic.
pub(crate) fn line(text: &str) {
    to_stderr(&format!("echo-agent: {text}\n"));
}

/// Writes text to standard error as it is.
pub(crate) fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes text to standard output; true when all of it went out.
pub(crate) fn to_stdout(text: &str) -> bool {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}
