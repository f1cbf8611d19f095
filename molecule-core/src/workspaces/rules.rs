//! What texts, tiers and folders of a workspace must look like, when it is created
//! and when it is changed.

use std::path::{Component, Path, PathBuf};

/// Characters that would mean something to YAML.
const YAML_SPECIAL: &[char] = &['{', '}', '[', ']', '|', '>', '*', '&', '!'];
/// What ends a line, for YAML or for a screen.
const LINE_BREAKS: &[char] = &['\r', '\n', '\u{2028}', '\u{2029}'];
/// Host folders no workspace may mount, nor anything below them.
const FORBIDDEN_DIRS: &[&str] = &[
    "/etc", "/var", "/proc", "/sys", "/dev", "/boot", "/sbin", "/bin", "/lib", "/usr",
];
/// What systems that keep everything writable below `/var` link their usual folders
/// to.
const LINKED_DIRS: &[(&str, &str)] = &[
    ("/var/home", "/home"),
    ("/var/srv", "/srv"),
    ("/var/opt", "/opt"),
    ("/var/mnt", "/mnt"),
];
/// Longest path that Linux takes.
const MAX_DIR_BYTES: usize = 4096;

/// Longest value of a text field, in bytes.
fn limit(field: &str) -> usize {
    match field {
        "name" => 255,
        "role" => 1000,
        _ => 100,
    }
}

/// The contract's rules for `name`, `role`, `model` and `runtime`; control
/// characters are refused on top of CR and LF.
///
/// # Errors
/// One sentence with the field and the rule, never with the value.
pub(super) fn check_text(field: &str, value: &str) -> Result<(), String> {
    let limit = limit(field);
    if value.len() > limit {
        return Err(format!("{field} must be at most {limit} characters"));
    }
    if value.contains(LINE_BREAKS) {
        return Err(format!("{field} must not contain newline characters"));
    }
    if value.chars().any(is_control) {
        return Err(format!("{field} must not contain control characters"));
    }
    if matches!(field, "name" | "role") && value.contains(YAML_SPECIAL) {
        return Err(format!("{field} contains invalid characters"));
    }
    Ok(())
}

/// Control characters, and those that reorder the text around them: with the latter
/// a name can look like another one. Marks that mixed scripts need are fine.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The tier, if there is such a one.
///
/// # Errors
/// One sentence.
pub(super) fn check_tier(tier: i64) -> Result<i64, String> {
    match tier {
        1..=4 => Ok(tier),
        _ => Err("tier must be between 1 and 4".to_owned()),
    }
}

/// The rules for a host folder that is mounted as `/workspace`.
///
/// # Errors
/// One sentence.
pub(super) fn check_dir(dir: &str) -> Result<(), String> {
    let path = Path::new(dir);
    if dir.len() > MAX_DIR_BYTES {
        return Err(format!(
            "workspace_dir must be at most {MAX_DIR_BYTES} characters"
        ));
    }
    if dir.contains(LINE_BREAKS) || dir.chars().any(is_control) {
        return Err("workspace_dir must not contain control characters".into());
    }
    if !path.is_absolute() {
        return Err("workspace_dir must be an absolute path".into());
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err("workspace_dir must not contain ..".into());
    }
    if path == Path::new("/") {
        return Err("workspace_dir must not be the root folder".into());
    }
    match FORBIDDEN_DIRS
        .iter()
        .find(|forbidden| path.starts_with(forbidden))
    {
        Some(forbidden) => Err(format!("workspace_dir must not be at or under {forbidden}")),
        None => Ok(()),
    }
}

/// As [`check_dir`], for where a folder of this machine is once all links are
/// followed: whoever can write next to it could put a link in its place. A folder
/// that cannot be seen from here is left to who mounts it.
///
/// # Errors
/// One sentence.
pub(super) async fn check_real_dir(dir: &str) -> Result<(), String> {
    check_dir(dir)?;
    match tokio::fs::canonicalize(dir).await {
        Ok(real) => check_dir(&usual(&real).to_string_lossy()),
        Err(_) => Ok(()),
    }
}

/// The name by which people know a folder.
fn usual(real: &Path) -> PathBuf {
    let linked = LINKED_DIRS
        .iter()
        .find_map(|(target, link)| Some(Path::new(link).join(real.strip_prefix(target).ok()?)));
    linked.unwrap_or_else(|| real.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_hides_or_reorders_is_refused_and_text_that_is_only_foreign_is_not() {
        for bad in [
            "a\0",
            "a\u{85}b",
            "a\u{202e}b",
            "a\u{2066}b",
            "a\u{2028}b",
            "a\u{7f}",
        ] {
            for field in ["name", "role", "model", "runtime"] {
                let text = check_text(field, bad).unwrap_err();
                assert!(text.starts_with(field) && !text.contains(bad), "{text}");
            }
        }
        for good in ["", "Prüfer №1", "بحث\u{200f} 1", "👩\u{200d}🔬", "a/b:c"] {
            assert_eq!(check_text("name", good), Ok(()), "{good}");
        }
    }

    #[test]
    fn however_it_is_written_a_system_folder_stays_forbidden() {
        for dir in ["/etc", "//etc/x", "/./usr/lib", "/var/", "/proc/1/root"] {
            assert!(check_dir(dir).is_err(), "{dir}");
        }
        assert_eq!(check_dir("/etcetera"), Ok(()));
        assert!(check_dir(&format!("/{}", "x".repeat(4096))).is_err());
    }

    #[tokio::test]
    async fn a_link_is_as_good_as_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        for (link, target) in [
            ("good", path("real")),
            ("up", "../../../../../../../etc".to_owned()),
            ("twice", path("up")),
            ("round", path("round")),
            ("root", "/".to_owned()),
        ] {
            std::os::unix::fs::symlink(target, path(link)).unwrap();
        }
        for good in ["real", "good", "nowhere", "round"] {
            assert_eq!(check_real_dir(&path(good)).await, Ok(()), "{good}");
        }
        for bad in ["up", "twice", "root", "up/ssl", "good/../up"] {
            assert!(check_real_dir(&path(bad)).await.is_err(), "{bad}");
        }
    }

    #[test]
    fn homes_below_var_are_homes() {
        for (real, known) in [
            ("/var/home/ann/work", "/home/ann/work"),
            ("/var/srv", "/srv"),
            ("/var/homes", "/var/homes"),
            ("/var/lib", "/var/lib"),
            ("/srv/x", "/srv/x"),
        ] {
            assert_eq!(usual(Path::new(real)), Path::new(known));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_folder_is_absolute_and_leads_nowhere_up(dir in "(/|\\.|\\.\\.|[a-z]{1,4}|\\PC){0,12}") {
            if check_dir(&dir).is_ok() {
                prop_assert!(dir.starts_with('/') && !dir.split('/').any(|part| part == ".."));
            }
        }
    }
}
