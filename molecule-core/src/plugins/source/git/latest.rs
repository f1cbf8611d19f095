//! Which of many tags is the latest release.

use std::cmp::Ordering;

use crate::git::CommitId;

/// The version that a tag says it is: `v1.2.3` or `1.2.3`, with or without something
/// behind a `+`, as semantic versioning writes them. A pre-release is none.
fn release(tag: &str) -> Option<[u64; 3]> {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let (text, build) = match text.split_once('+') {
        Some((text, build)) => (text, Some(build)),
        None => (text, None),
    };
    let plain = |part: &str| {
        let known = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        !part.is_empty() && part.bytes().all(known)
    };
    if build.is_some_and(|build| !build.split('.').all(plain)) {
        return None;
    }
    let mut numbers = text.split('.').map(number);
    let version = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(version)
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if !digits || padded {
        None
    } else {
        text.parse().ok()
    }
}

/// The tag of the highest release. Of two names of one version the greater one, so that
/// everybody who asks gets the same answer.
pub(super) fn highest_release<'a>(
    tags: impl IntoIterator<Item = (&'a str, &'a CommitId)>,
) -> Option<&'a CommitId> {
    let tags = tags.into_iter();
    let releases = tags.filter_map(|(name, commit)| Some((release(name)?, name, commit)));
    let highest = releases.max_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    highest.map(|(_, _, commit)| commit)
}

/// A commit that a tag was put on, with its date.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dated {
    pub(super) commit: CommitId,
    /// Seconds since 1970.
    pub(super) at: i64,
}

impl Dated {
    /// Reads lines of a commit and a date.
    pub(super) fn parse(output: &[u8]) -> Option<Vec<Self>> {
        let text = std::str::from_utf8(output).ok()?;
        let line = |line: &str| {
            let (commit, at) = line.split_once(' ')?;
            Some(Self {
                commit: CommitId::parse(commit)?,
                at: at.parse().ok()?,
            })
        };
        text.lines().map(line).collect()
    }
}

/// The newest commit; of two of one second the greater one.
pub(super) fn newest(dated: Vec<Dated>) -> Option<CommitId> {
    let order = |one: &Dated, other: &Dated| -> Ordering {
        (one.at, &one.commit).cmp(&(other.at, &other.commit))
    };
    dated.into_iter().max_by(order).map(|dated| dated.commit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: usize) -> CommitId {
        CommitId::parse(&format!("{number:040x}")).unwrap()
    }

    fn highest(names: &[&str]) -> Option<usize> {
        let ids: Vec<CommitId> = (0..names.len()).map(id).collect();
        let found = highest_release(names.iter().copied().zip(&ids))?;
        ids.iter().position(|id| id == found)
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (names, expected) in [
            (&["v1.9.0", "v1.10.0", "v1.2.0"][..], Some(1)),
            (&["1.0.0", "v2.0.0", "v10.0.0-rc.1"], Some(1)),
            (&["v1.0.0", "v1.0.0+build.5"], Some(1)),
            (&["1.0.0", "v1.0.0"], Some(1)),
            (
                &["v1", "v1.2", "nightly", "v1.2.3.4", "v01.0.0", "V1.0.0"],
                None,
            ),
            (&["v1.0.0-alpha", "v1.0.0-0"], None),
            (
                &["v1.0.0+", "v1.0.0+a_b", "v1.0.0 ", "v1..0", "v1.0.-1"],
                None,
            ),
            (&["v99999999999999999999.0.0", "v0.0.1"], Some(1)),
            (&[], None),
        ] {
            assert_eq!(highest(names), expected, "{names:?}");
        }
    }

    #[test]
    fn the_newest_commit_is_found_by_its_date() {
        let text = format!(
            "{} 100\n{} 300\n{} 300\n",
            id(7).as_str(),
            id(1).as_str(),
            id(2).as_str()
        );
        let dated = Dated::parse(text.as_bytes()).unwrap();
        assert_eq!(newest(dated), Some(id(2)));
        assert_eq!(newest(Vec::new()), None);
        for bad in ["x 1\n", "\n", &format!("{} x\n", id(1).as_str())] {
            assert_eq!(Dated::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_a_release_or_none(name in ".{0,20}", output in any::<Vec<u8>>()) {
            let _ = (release(&name), Dated::parse(&output));
        }

        #[test]
        fn the_order_of_the_tags_means_nothing(
            versions in proptest::collection::hash_set((0u64..20, 0u64..20, 0u64..20), 1..10),
        ) {
            let highest_version = versions.iter().max().copied().unwrap();
            let names: Vec<String> =
                versions.iter().map(|(a, b, c)| format!("v{a}.{b}.{c}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (a, b, c) = highest_version;
            let expected = format!("v{a}.{b}.{c}");
            prop_assert_eq!(highest(&names).map(|at| names[at]), Some(&*expected));
        }
    }
}
