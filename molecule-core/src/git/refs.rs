//! What `ls-remote` tells: which names a repository has, and what they mean.

use std::collections::HashMap;

use super::CommitId;

/// Longest output that is read: some hundred thousand names.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Longest name that is taken for one.
const MAX_NAME_BYTES: usize = 1024;
/// What follows the name of a tag that is an object of its own, on the line that tells
/// what it was put on.
const PEELED: &str = "^{}";

/// The names of a repository.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct RefList {
    objects: HashMap<String, CommitId>,
}

/// The output is not what `ls-remote` writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} of the list of names is not one")]
pub(crate) struct RefsError(usize);

impl RefList {
    /// Reads all of the output: an object, a tab and a name per line. Names that nobody
    /// here could ask for are left out: git lets tags be called almost anything, and one
    /// of them is no reason to do without the others.
    pub(crate) fn parse(output: &[u8]) -> Result<Self, RefsError> {
        let mut objects = HashMap::new();
        let text = match output.last() {
            None => return Ok(Self::default()),
            // Or it was cut off.
            Some(b'\n') => &output[..output.len() - 1],
            Some(_) => return Err(RefsError(0)),
        };
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let (name, object) = line_of(line).ok_or(RefsError(index + 1))?;
            let Some(name) = name_of(name) else {
                continue;
            };
            // A repository has each name once; who says it twice wants us to choose.
            if objects.insert(name.to_owned(), object).is_some() {
                return Err(RefsError(index + 1));
            }
        }
        Ok(Self { objects })
    }

    /// What the repository calls its default.
    pub(crate) fn head(&self) -> Option<&CommitId> {
        self.objects.get("HEAD")
    }

    /// The commit that a branch is at.
    pub(crate) fn branch(&self, name: &str) -> Option<&CommitId> {
        self.objects.get(&format!("refs/heads/{name}"))
    }

    /// What a tag was put on, which is a commit in a repository of sane people.
    pub(crate) fn tag(&self, name: &str) -> Option<&CommitId> {
        let name = format!("refs/tags/{name}");
        let peeled = self.objects.get(&format!("{name}{PEELED}"));
        peeled.or_else(|| self.objects.get(&name))
    }

    /// All tags with what they were put on, in no order.
    pub(crate) fn tags(&self) -> impl Iterator<Item = (&str, &CommitId)> {
        let names = self.objects.keys();
        let names = names.filter_map(|name| name.strip_prefix("refs/tags/"));
        let names = names.filter(|name| !name.ends_with(PEELED));
        names.filter_map(|name| Some((name, self.tag(name)?)))
    }

    /// A full name that means this commit, for servers that only give out what has one.
    pub(crate) fn name_of(&self, commit: &CommitId) -> Option<&str> {
        let found = self.objects.iter().filter(|(_, object)| *object == commit);
        let name = found.map(|(name, _)| name.as_str()).min()?;
        Some(name.strip_suffix(PEELED).unwrap_or(name))
    }
}

/// What stands before and behind the tab.
fn line_of(line: &[u8]) -> Option<(&[u8], CommitId)> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let object = std::str::from_utf8(&line[..tab]).ok()?;
    let name = &line[tab + 1..];
    (!name.is_empty()).then_some((name, CommitId::parse(object)?))
}

/// A name that can be one of ours.
fn name_of(name: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let known = name == "HEAD" || name.starts_with("refs/");
    // What no name has, and what would be a pattern or two names for git itself.
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let plain = !name.strip_suffix(PEELED).unwrap_or(name).contains(odd);
    (known && plain && name.len() <= MAX_NAME_BYTES).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn list(lines: &[(char, &str)]) -> RefList {
        let lines = lines.iter();
        let text: String = lines
            .map(|(digit, name)| format!("{}\t{name}\n", id(*digit)))
            .collect();
        RefList::parse(text.as_bytes()).unwrap()
    }

    fn shown(commit: Option<&CommitId>) -> Option<char> {
        commit.and_then(|commit| commit.as_str().chars().next())
    }

    #[test]
    fn tags_are_peeled_and_told_from_branches() {
        let list = list(&[
            ('1', "HEAD"),
            ('1', "refs/heads/main"),
            ('2', "refs/heads/v1"),
            ('3', "refs/tags/v1"),
            ('4', "refs/tags/v2"),
            ('5', "refs/tags/v2^{}"),
            ('6', "refs/pull/7/head"),
        ]);
        assert_eq!(shown(list.head()), Some('1'));
        assert_eq!(shown(list.branch("v1")), Some('2'));
        assert_eq!(shown(list.tag("v1")), Some('3'));
        assert_eq!(shown(list.tag("v2")), Some('5'));
        assert_eq!(shown(list.tag("main")), None);
        let mut tags: Vec<_> = list
            .tags()
            .map(|(name, id)| (name, shown(Some(id))))
            .collect();
        tags.sort_unstable();
        assert_eq!(tags, [("v1", Some('3')), ("v2", Some('5'))]);
        let name_of = |digit| list.name_of(&CommitId::parse(&id(digit)).unwrap());
        assert_eq!(name_of('5'), Some("refs/tags/v2"));
        assert_eq!(name_of('1'), Some("HEAD"));
        assert_eq!(name_of('9'), None);
    }

    #[test]
    fn a_list_that_git_would_not_write_is_refused() {
        let good = format!("{}\trefs/heads/main\n", id('a'));
        assert!(RefList::parse(good.as_bytes()).is_ok());
        assert_eq!(RefList::parse(b""), Ok(RefList::default()));
        for bad in [
            "\n".to_owned(),
            good.trim_end().to_owned(),
            format!("{good}\n"),
            format!("{good}{good}"),
            good.replace('\t', " "),
            good.replace('a', "A"),
            good.replace("refs/heads/main", ""),
            format!("ref: refs/heads/main\tHEAD\n{good}"),
        ] {
            assert!(RefList::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RefList::parse(b"\xff\t\xff\n").is_err());
    }

    #[test]
    fn a_name_that_nobody_can_ask_for_does_not_hide_the_others() {
        let good = format!("{}\trefs/tags/v1\n", id('a'));
        let odd = |name: &[u8]| [id('b').as_bytes(), b"\t", name, b"\n"].concat();
        for name in [
            b"refs/tags/caf\xe9".as_slice(),
            b"--upload-pack=refs/heads/main",
            b"refs/heads/ma in",
            b"refs/heads/ma\rin",
            b"refs/heads/a:refs/heads/b",
            b"refs/tags/*",
            b"refs/tags/a^{}^{}",
            format!("refs/tags/{}", "x".repeat(2000)).as_bytes(),
        ] {
            let output = [&odd(name), good.as_bytes(), &odd(name)].concat();
            let list = RefList::parse(&output).unwrap();
            let tags: Vec<_> = list.tags().map(|(name, _)| name).collect();
            assert_eq!(tags, ["v1"], "{name:?}");
            assert_eq!(list.objects.len(), 1, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_output_is_a_list_or_none(output in any::<Vec<u8>>()) {
            let _ = RefList::parse(&output);
        }

        #[test]
        fn what_is_listed_is_found(
            names in proptest::collection::hash_map("[a-z0-9/._-]{1,20}", "[0-9a-f]{40}", 0..20),
        ) {
            let lines = names.iter();
            let text: String = lines.map(|(name, id)| format!("{id}\trefs/tags/{name}\n")).collect();
            let list = RefList::parse(text.as_bytes()).unwrap();
            for (name, id) in &names {
                prop_assert_eq!(list.tag(name).map(CommitId::as_str), Some(id.as_str()));
            }
            prop_assert_eq!(list.tags().count(), names.len());
        }
    }
}
