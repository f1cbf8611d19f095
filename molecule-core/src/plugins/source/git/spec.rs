//! `<owner>/<repository>[#<revision>]`.

use molecule_hooks::{PluginRef, PluginSourceError};

/// Longest name of an owner or a repository, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// What a spec says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) repository: Repository,
    pub(super) revision: PluginRef,
}

/// Whose repository, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    pub(super) owner: String,
    pub(super) name: String,
}

impl Spec {
    pub(super) fn parse(spec: &str) -> Result<Self, PluginSourceError> {
        let (place, revision) = match spec.split_once('#') {
            Some((place, fragment)) => (place, PluginRef::of_fragment(fragment)),
            None => (spec, Some(PluginRef::Default)),
        };
        let revision = revision.ok_or_else(|| {
            let text =
                "the revision must be a tag, a branch, tag:<name>, tag:latest or sha:<40 or 64 digits>";
            PluginSourceError::InvalidSpec(text.to_owned())
        })?;
        Ok(Self {
            repository: Repository::parse(place)?,
            revision,
        })
    }
}

impl Repository {
    pub(super) fn parse(place: &str) -> Result<Self, PluginSourceError> {
        match place.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => Ok(Self {
                owner: owner.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(PluginSourceError::InvalidSpec(
                "it must be <owner>/<repository>, optionally with #<revision>".to_owned(),
            )),
        }
    }

    /// Where it is, below the base URL, which has no slash at its end.
    pub(super) fn url(&self, base: &str) -> String {
        format!("{base}/{}/{}.git", self.owner, self.name)
    }
}

/// A letter or digit, then letters, digits, `_`, `.`, `-`.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let first = text.bytes().next();
    text.len() <= MAX_NAME_BYTES
        && first.is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::super::GitSource;
    use super::*;
    use molecule_hooks::PluginSource;
    use proptest::prelude::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn owner_repository_and_revision_are_told_apart() {
        let named = |name: &str| PluginRef::Named(name.to_owned());
        for (spec, owner, name, revision) in [
            ("acme/rules", "acme", "rules", PluginRef::Default),
            ("acme/rules#v1.2.0", "acme", "rules", named("v1.2.0")),
            ("a/b.c_d-e#feature/x", "a", "b.c_d-e", named("feature/x")),
            ("a/b#tag:v1", "a", "b", PluginRef::Tag("v1".to_owned())),
            ("a/b#tag:latest", "a", "b", PluginRef::LatestTag),
            (
                "a/b#sha:0123456789abcdef0123456789abcdef01234567",
                "a",
                "b",
                PluginRef::Commit(COMMIT.to_owned()),
            ),
        ] {
            let found = Spec::parse(spec).unwrap();
            assert_eq!(found.repository.owner, owner, "{spec}");
            assert_eq!(found.repository.name, name, "{spec}");
            assert_eq!(found.revision, revision, "{spec}");
        }
        let url = Repository::parse("acme/rules").unwrap().url("https://h/x");
        assert_eq!(url, "https://h/x/acme/rules.git");
    }

    #[test]
    fn a_commit_named_by_sha256_is_one_that_never_moves() {
        let id = "0123456789abcdef".repeat(4);
        for spec in [format!("a/b#sha:{id}"), format!("a/b#{id}")] {
            let revision = Spec::parse(&spec).unwrap().revision;
            assert_eq!(revision, PluginRef::Commit(id.clone()), "{spec}");
        }
        let pinned = GitSource::new("x", "https://h", "/none").pinned_to("a/b#v1", &id);
        assert_eq!(pinned, format!("a/b#sha:{id}"));
    }

    #[test]
    fn what_could_mean_another_place_is_refused() {
        let long = format!("a/{}", "b".repeat(101));
        for spec in [
            "",
            "acme",
            "acme/",
            "/rules",
            "acme/rules/x",
            "../rules",
            "acme/..",
            "-acme/rules",
            "acme/--upload-pack=x",
            "acme/rules#",
            "acme/rules#-x",
            "acme/rules##v1",
            "acme/rules#a..b",
            "acme/rules#refs/heads/x:refs/heads/y",
            "acme/rules#v1 ",
            "acme/rules#$(id)",
            "acme/rules#'",
            "acme/rules#a\nb",
            "acme/ru les#v1",
            "acme/rul%65s",
            "user@host/rules",
            "host:80/rules",
            "acme\\rules/x",
            "acme/rules?x=y",
            "äcme/rules",
            &long,
        ] {
            let error = Spec::parse(spec).unwrap_err();
            assert!(matches!(error, PluginSourceError::InvalidSpec(_)), "{spec}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in any::<String>()) {
            let _ = Spec::parse(&text);
        }

        #[test]
        fn what_is_taken_leads_nowhere_else(text in "[a-z./#:@%?-]{0,24}") {
            if let Ok(spec) = Spec::parse(&text) {
                let url = url::Url::parse(&spec.repository.url("https://host/base")).unwrap();
                let path = format!("/base/{}/{}.git", spec.repository.owner, spec.repository.name);
                prop_assert_eq!((url.host_str(), url.path()), (Some("host"), &*path));
            }
        }
    }
}
