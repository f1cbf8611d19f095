//! Reads a workspace template and places files, without ever leaving the folder
//! it was given. Everything here blocks: call it from a blocking thread.

mod line_ends;
mod source;
mod walk;

use std::io;
use std::path::{Component, Path};

pub(super) use self::source::TemplateSource;
pub(super) use self::walk::{Receiver, Template, TemplateFile};

/// Deepest folder of a template.
const MAX_DEPTH: usize = 32;
/// Most files and folders of a template.
const MAX_ENTRIES: usize = 20_000;
/// Largest template.
const MAX_TOTAL_BYTES: u64 = 512 * 1024 * 1024;
/// Files whose line ends are made Unix line ends: a carriage return after
/// `#!/bin/sh` makes a script unusable.
const TEXT_EXTENSIONS: &[&str] = &["sh", "py", "md"];

/// Why a template or a file name cannot be used. Names nothing outside the
/// template.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("the template is not a readable folder ({0})")]
    Root(io::ErrorKind),
    #[error("the template leads out of the folder of templates")]
    Outside,
    #[error("{0:?} of the template cannot be read ({1})")]
    Read(String, io::ErrorKind),
    #[error("{0:?} of the template changed while it was read")]
    Changed(String),
    #[error("the template has {0}")]
    TooLarge(&'static str),
    #[error("a file name is not a plain relative path")]
    Name,
}

/// Checks the name of a file for the config directory: relative, without `.`,
/// `..`, empty parts or NUL.
pub(super) fn check_name(name: &str) -> Result<&str, TemplateError> {
    let plain = !name.is_empty()
        && !name.contains('\0')
        && name
            .split('/')
            .all(|part| !part.is_empty() && part.len() <= 255)
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        && name.split('/').all(|part| part != "." && part != "..");
    if plain && name.len() <= 4096 {
        Ok(name)
    } else {
        Err(TemplateError::Name)
    }
}

/// The folders above `name`, outermost first.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

fn is_text(name: &str) -> bool {
    Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| TEXT_EXTENSIONS.contains(&extension))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a//b",
            "./a",
            "a/.",
            "a\0",
            "a/",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", ".auth_token", "plugins/x/..y", "a b/c"] {
            assert_eq!(check_name(name).unwrap(), name);
        }
        assert_eq!(parents("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
    }

    #[test]
    fn scripts_and_documents_are_text() {
        assert!(is_text("x/run.sh") && is_text("README.md") && is_text("a.py"));
        assert!(!is_text("data.bin") && !is_text("sh") && !is_text("run.sh.gz"));
    }

    proptest! {
        #[test]
        fn a_name_that_is_accepted_stays_below_its_folder(
            parts in prop::collection::vec("[a.\\u{0}/ \\\\é-]{0,4}", 0..6)
        ) {
            let name = parts.join("/");
            if let Ok(name) = check_name(&name) {
                let mut depth = 0;
                for part in Path::new(name).components() {
                    prop_assert!(matches!(part, Component::Normal(_)));
                    depth += 1;
                }
                prop_assert_eq!(depth, name.split('/').count());
                prop_assert!(!name.contains('\0'));
                for parent in parents(name) {
                    prop_assert!(check_name(parent).is_ok());
                }
            }
        }
    }
}
