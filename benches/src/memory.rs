//! How much memory this process has.

/// Forgets the largest memory this process ever had, and answers with the present.
///
/// # Panics
/// Where the system does not tell.
pub fn reset_peak() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("a peak that can be reset");
    memory("VmRSS:")
}

/// The largest memory of this process since then, in bytes.
///
/// # Panics
/// Where the system does not tell.
pub fn peak() -> u64 {
    memory("VmHWM:")
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status of a process");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number") * 1024
}
