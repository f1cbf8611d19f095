//! `build-info [--json]`: what this binary is made of.

use crate::build_info::BuildInfo;

/// # Errors
/// None that can happen: what is printed always has a form in JSON.
pub(super) fn print(as_json: bool) -> anyhow::Result<()> {
    let info = BuildInfo::of_this_binary();
    match as_json {
        true => println!("{}", serde_json::to_string_pretty(&info)?),
        false => lines(&info).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

/// Facts with aligned columns, then the lines of `hooks`.
fn lines(info: &BuildInfo) -> Vec<String> {
    let facts = info.facts();
    let width = facts.iter().map(|(what, _)| what.len()).max();
    let width = width.unwrap_or_default();
    let facts = facts
        .iter()
        .map(|(what, text)| format!("{what:width$}  {text}"));
    let mut lines: Vec<String> = facts.collect();
    if !info.is_complete() {
        lines.push(
            "hint: `molecule_core::build_info!();` in main.rs and `molecule_build::embed()` in build.rs \
             add revision, lock file and toolchain"
                .to_owned(),
        );
    }
    lines.push(String::new());
    lines.extend(super::hooks::lines(info));
    lines
}
