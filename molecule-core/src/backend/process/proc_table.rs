//! What the kernel says about processes.

use std::fs;
use std::io;

/// One process, from `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessStat {
    pub(super) pid: i32,
    pub(super) group: i32,
    /// Ticks between boot and its start: with the pid this names a process even
    /// after the pid is used again.
    pub(super) start_time: u64,
    /// True when it ended and only its exit status is left.
    pub(super) ended: bool,
}

/// Looks up one process; `None` when there is none.
pub(super) fn stat(pid: i32) -> io::Result<Option<ProcessStat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(line) => match parse(&String::from_utf8_lossy(&line)) {
            Some(stat) => Ok(Some(stat)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "unreadable process state",
            )),
        },
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All living members of a process group.
pub(super) fn group_members(group: i32) -> io::Result<Vec<ProcessStat>> {
    living(|process| process.group == group)
}

/// The living leader of a process group that was given `NAME=value`.
pub(super) fn leader_with_variable(assignment: &str) -> io::Result<Option<ProcessStat>> {
    let leads = |process: &ProcessStat| process.group == process.pid;
    let found = living(|process| leads(process) && has_variable(process.pid, assignment))?;
    Ok(found.first().copied())
}

fn living(wanted: impl Fn(&ProcessStat) -> bool) -> io::Result<Vec<ProcessStat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Ok(Some(process)) = stat(pid)
            && !process.ended
            && wanted(&process)
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// True when the process was given `NAME=value` in its environment. False when
/// that cannot be known.
pub(super) fn has_variable(pid: i32, assignment: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == assignment.as_bytes())
    })
}

/// Changes with every boot of the machine.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn is_gone(error: &io::Error) -> bool {
    // Reading the file of a process that ends at that moment gives ESRCH.
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn parse(line: &str) -> Option<ProcessStat> {
    let pid = line.split_once(' ')?.0.parse().ok()?;
    // The command name stands in parentheses and may contain anything.
    let mut fields = line[line.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?; // field 3
    let group = fields.nth(1)?.parse().ok()?; // field 5
    let start_time = fields.nth(16)?.parse().ok()?; // field 22
    Some(ProcessStat {
        pid,
        group,
        start_time,
        ended: matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_shift_the_fields() {
        let line = "42 (a) b (c d) S 1 41 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 2";
        let expected = ProcessStat {
            pid: 42,
            group: 41,
            start_time: 777,
            ended: false,
        };
        assert_eq!(parse(line), Some(expected));
        assert!(parse(&line.replace(") S", ") Z")).unwrap().ended);
        assert_eq!(parse("42 nonsense"), None);
    }

    #[test]
    fn this_process_is_found_and_an_impossible_one_is_not() {
        let own = i32::try_from(std::process::id()).unwrap();
        let found = stat(own).unwrap().unwrap();
        assert!(!found.ended && found.start_time > 0);
        assert!(group_members(found.group).unwrap().contains(&found));
        assert_eq!(stat(i32::MAX).unwrap(), None);
    }
}
