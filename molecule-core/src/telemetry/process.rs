//! What the process itself takes, under the names that dashboards of the
//! reference platform ask for. It is written in Go; every series has the nearest
//! thing that this one has.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const TASKS: &str = "go_goroutines";
const RESIDENT: &str = "go_memstats_alloc_bytes";
const MAPPED: &str = "go_memstats_sys_bytes";
const ANONYMOUS: &str = "go_memstats_heap_inuse_bytes";
const COLLECTING: &str = "go_gc_duration_seconds_total";
/// Raised and lowered by who serves the connections.
const SOCKETS: &str = "molecule_websocket_connections_active";

/// Says what the series mean, and makes those that may have no value for long.
pub(super) fn describe() {
    describe_gauge!(TASKS, "Tasks of the runtime that have not ended.");
    describe_gauge!(RESIDENT, "Memory of the process that is resident.");
    describe_gauge!(MAPPED, "Address space of the process.");
    describe_gauge!(
        ANONYMOUS,
        "Resident memory that is no file: heap and stacks."
    );
    describe_counter!(COLLECTING, "Always 0: nothing is collected.");
    describe_gauge!(SOCKETS, "WebSocket connections that are open.");
    counter!(COLLECTING).absolute(0);
    gauge!(SOCKETS).increment(0.0);
}

/// Takes the measures that nobody else does.
pub(super) async fn measure() {
    let tasks = tokio::runtime::Handle::current().metrics();
    gauge!(TASKS).set(tasks.num_alive_tasks() as f64);
    // Only Linux tells in this way; elsewhere these stay 0.
    let status = tokio::fs::read_to_string("/proc/self/status").await;
    let status = status.unwrap_or_default();
    for (name, field) in [
        (RESIDENT, "VmRSS:"),
        (MAPPED, "VmSize:"),
        (ANONYMOUS, "RssAnon:"),
    ] {
        gauge!(name).set(kibibytes(&status, field) * 1024.0);
    }
}

/// The value of a line such as `VmRSS:      5332 kB`.
fn kibibytes(status: &str, field: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn a_line_of_the_status_is_found_by_its_name() {
        let status = "VmPeak:\t  9000 kB\nVmSize:\t  8000 kB\nVmRSS:\t    5332 kB\nRssAnon: x\n";
        assert_eq!(kibibytes(status, "VmRSS:"), 5332.0);
        assert_eq!(kibibytes(status, "RssAnon:"), 0.0);
        assert_eq!(kibibytes("", "VmRSS:"), 0.0);
    }
}
