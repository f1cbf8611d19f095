//! How files and texts look.

use crate::assert_none;
use crate::source::{Source, files};

const MAX_LINES: usize = 600;

#[test]
fn no_file_is_longer_than_one_can_read() {
    let offenders: Vec<_> = files(&["", "rs", "sh", "sql"])
        .iter()
        .filter(|file| !file.file_name().starts_with("LICENSE"))
        .map(|file| (file.path.as_str(), file.text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    assert_none(
        &offenders,
        "no file is longer than 600 lines: about 150 is the aim, and a file this long holds more \
         than one thought. Split it along the thoughts",
    );
}

#[test]
fn a_hook_crate_is_never_called_a_plugin() {
    // Put together here, or this file would be its own offender.
    let wrong = ["crate", "hook"].map(|word| format!("plugin {word}"));
    let mut offenders = Vec::new();
    for file in files(&["md", "rs", "sh", "toml", "yaml", "json"]) {
        for (index, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase().replace("plug-in", "plugin");
            if wrong.iter().any(|wrong| line.contains(wrong.as_str())) {
                offenders.push(at(&file, index, &line));
            }
        }
    }
    assert_none(
        &offenders,
        "say \"hook crate\" for Rust code compiled into the server: a plugin is something else here, \
         a folder of skills that is installed into a workspace",
    );
}

fn at(file: &Source, index: usize, line: &str) -> String {
    format!("{}:{}: {}", file.path, index + 1, line.trim())
}
