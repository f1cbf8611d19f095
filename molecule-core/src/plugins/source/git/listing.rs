//! What a commit holds, told by git before anything of it is written.

use molecule_hooks::{PluginSourceError, TreeLimits};

/// Longest listing that is read.
pub(super) const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Checks the output of `ls-tree -r -t -l -z` against the limits.
pub(super) fn check(listing: &[u8], limits: &TreeLimits) -> Result<(), PluginSourceError> {
    let too_large = |what: &str| Err(PluginSourceError::TooLarge(what.to_owned()));
    let (mut bytes, mut entries) = (0_u64, 0_usize);
    for entry in listing
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
    {
        let Some((size, path)) = read(entry) else {
            let text = "git lists something that is no entry of a tree";
            return Err(PluginSourceError::Failed(text.to_owned()));
        };
        bytes = bytes.saturating_add(size);
        entries += 1;
        if bytes > limits.bytes {
            return too_large("the files of the commit are too large together");
        }
        if entries > limits.entries {
            return too_large("the commit has too many files and folders");
        }
        let mut parts = path.split(|byte| *byte == b'/');
        if parts.clone().count() > limits.depth.saturating_add(1) {
            return too_large("folders of the commit are nested too deeply");
        }
        if parts.any(|part| part.len() > limits.name_bytes) {
            return too_large("a name in the commit is too long");
        }
    }
    Ok(())
}

/// Size and path of `<mode> <type> <object> <size>\t<path>`. Folders and submodules have
/// no size.
fn read(entry: &[u8]) -> Option<(u64, &[u8])> {
    let tab = entry.iter().position(|byte| *byte == b'\t')?;
    let (head, path) = (std::str::from_utf8(&entry[..tab]).ok()?, &entry[tab + 1..]);
    let mut words = head.split_ascii_whitespace();
    let (_mode, kind, _object) = (words.next()?, words.next()?, words.next()?);
    let size = match (kind, words.next()?) {
        ("tree" | "commit", "-") => 0,
        ("blob", size) => size.parse().ok()?,
        _ => return None,
    };
    (words.next().is_none() && !path.is_empty()).then_some((size, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(entries: &[(&str, &str)]) -> Vec<u8> {
        let id = "0".repeat(40);
        let text: String = entries
            .iter()
            .map(|(size, path)| match *size {
                "-" => format!("040000 tree {id}       -\t{path}\0"),
                size => format!("100644 blob {id} {size:>7}\t{path}\0"),
            })
            .collect();
        text.into_bytes()
    }

    #[test]
    fn every_limit_is_kept_before_anything_is_written() {
        let mut limits = TreeLimits::default().with_bytes(100);
        (limits.entries, limits.depth, limits.name_bytes) = (4, 2, 5);
        let deep = [("-", "a"), ("-", "a/b"), ("100", "a/b/c")];
        assert!(check(&listing(&deep), &limits).is_ok());
        assert!(check(b"", &limits).is_ok());
        for over in [
            &[("60", "a"), ("41", "b")][..],
            &[("18446744073709551615", "a"), ("18446744073709551615", "b")],
            &[("1", "a"), ("1", "b"), ("1", "c"), ("1", "d"), ("1", "e")],
            &[("1", "a/b/c/d")],
            &[("1", "abcdef")],
        ] {
            let error = check(&listing(over), &limits).unwrap_err();
            assert!(matches!(error, PluginSourceError::TooLarge(_)), "{over:?}");
        }
    }

    #[test]
    fn a_submodule_counts_as_an_entry_and_nonsense_is_refused() {
        let limits = TreeLimits::default();
        let submodule = format!("160000 commit {}       -\tmodule\0", "0".repeat(40));
        assert!(check(submodule.as_bytes(), &limits).is_ok());
        for bad in [
            "x\0",
            "100644 blob 0 1\0",
            "100644 blob 0 x\ta\0",
            "100644 blob 0 1\t\0",
        ] {
            let error = check(bad.as_bytes(), &limits).unwrap_err();
            assert!(matches!(error, PluginSourceError::Failed(_)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_output_is_checked(output in any::<Vec<u8>>()) {
            let _ = check(&output, &TreeLimits::default());
        }
    }
}
