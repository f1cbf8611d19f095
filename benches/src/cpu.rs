//! Processor time, which other programs on the machine cannot take away from a
//! measurement as they can from requests per second.

use std::fs;
use std::time::Duration;

/// Time that every thread of this process except the calling one has run so far:
/// the servers', when the caller is the client. `None` where the system does not
/// tell.
pub fn of_other_threads() -> Option<Duration> {
    let own = fs::read_link("/proc/thread-self").ok()?;
    let own = own.file_name()?.to_owned();
    let mut nanos = 0;
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        if thread.file_name() == own {
            continue;
        }
        // A thread may end between the two calls.
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else {
            continue;
        };
        nanos += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanos))
}
