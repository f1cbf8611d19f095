//! What the text of an image reference says.

/// The registry that references without a host mean.
const DEFAULT_HOST: &str = "docker.io";
/// Where that registry keeps images that belong to nobody.
const DEFAULT_OWNER: &str = "library/";
/// The default registry under an older name.
const OLD_DEFAULT_HOST: &str = "index.docker.io";
/// Tags that are put on something newer now and then.
const MOVING_TAGS: [&str; 7] = [
    "latest", "staging", "main", "dev", "edge", "nightly", "rolling",
];
/// A longer reference is a mistake.
const MAX_LENGTH: usize = 512;
/// Longest tag that there can be.
const MAX_TAG: usize = 128;

/// The parts of a reference. Any text has parts; whether they make sense is asked
/// with [`is_plausible`](Self::is_plausible).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::docker) struct Reference<'a> {
    text: &'a str,
    name: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Takes a text apart.
    pub(in crate::backend::docker) fn parse(text: &'a str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the port of a host.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        Self {
            text,
            name,
            tag,
            digest,
        }
    }

    /// Host and path as they were written, without tag and digest.
    pub(in crate::backend::docker) fn name(&self) -> &'a str {
        self.name
    }

    /// What follows `@`.
    pub(in crate::backend::docker) fn digest(&self) -> Option<&'a str> {
        self.digest
    }

    /// Host, with port, of the registry that has the image, in lower case.
    pub(in crate::backend::docker) fn host(&self) -> String {
        canonical_host(self.split().0)
    }

    /// Host and path. The first part of a name is a host only if no owner of images
    /// could be called like that.
    fn split(&self) -> (&'a str, &'a str) {
        match self.name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => (DEFAULT_HOST, self.name),
        }
    }

    /// Host and path in the one way that all spellings of a repository share.
    fn repository(&self) -> (String, String) {
        let (host, path) = self.split();
        let host = canonical_host(host);
        if host == DEFAULT_HOST && !path.contains('/') {
            (host, format!("{DEFAULT_OWNER}{path}"))
        } else {
            (host, path.to_owned())
        }
    }

    /// True when both name the same repository, whatever their tags and digests.
    pub(in crate::backend::docker) fn is_of_same_repository(&self, other: &Reference<'_>) -> bool {
        self.repository() == other.repository()
    }

    /// True when another image can be behind the reference tomorrow, so that it has
    /// to be pulled again even though it is there.
    pub(in crate::backend::docker) fn is_moving(&self) -> bool {
        if self.text.contains("@sha256:") {
            return false;
        }
        match self.text.rsplit_once(':') {
            Some((_, tag)) if !tag.contains('/') => tag.is_empty() || MOVING_TAGS.contains(&tag),
            _ => true,
        }
    }

    /// The reference with a tag: without one, a pull would fetch every tag there is.
    pub(in crate::backend::docker) fn with_tag(&self) -> String {
        match (self.tag, self.digest) {
            (None | Some(""), None) => format!("{}:latest", self.name),
            _ => self.text.to_owned(),
        }
    }

    /// True when a daemon could know an image by this reference, and it can stand in
    /// the path of a request.
    pub(in crate::backend::docker) fn is_plausible(&self) -> bool {
        let (host, path) = self.split();
        let plain_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let is_host = |host: &str| {
            let first = host.starts_with(|c: char| c == '[' || c.is_ascii_alphanumeric());
            let last = host.ends_with(|c: char| c == ']' || c.is_ascii_alphanumeric());
            first && last && host.chars().all(plain_host)
        };
        let plain_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_tag = |tag: &str| {
            tag.len() <= MAX_TAG && tag.chars().all(plain_tag) && !tag.starts_with(['.', '-'])
        };
        let is_digest = |digest: &str| {
            let parts = digest.split_once(':');
            parts.is_some_and(|(kind, hex)| {
                let hex_only = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                !kind.is_empty() && kind.chars().all(plain_tag) && !hex.is_empty() && hex_only
            })
        };
        self.text.len() <= MAX_LENGTH
            && is_host(host)
            && path.split('/').all(is_component)
            && self.tag.is_none_or(is_tag)
            && self.digest.is_none_or(is_digest)
    }
}

fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host == OLD_DEFAULT_HOST {
        DEFAULT_HOST.to_owned()
    } else {
        host
    }
}

/// A part of a path: letters in lower case and digits, with separators in between.
fn is_component(part: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let separator = |byte: u8| matches!(byte, b'.' | b'_' | b'-');
    part.bytes().all(|byte| inner(byte) || separator(byte))
        && part.bytes().next().is_some_and(inner)
        && part.bytes().last().is_some_and(inner)
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moving_references_are_told_from_pinned_ones() {
        let moving = [
            "workspace-template",
            "ghcr.io/o/r",
            "localhost:5000/r",
            "localhost:5000/r:latest",
            "r:",
        ];
        for text in moving {
            assert!(Reference::parse(text).is_moving(), "{text}");
        }
        for tag in MOVING_TAGS {
            let text = format!("ghcr.io/o/r:{tag}");
            assert!(Reference::parse(&text).is_moving(), "{text}");
        }
        let hex = "ab".repeat(32);
        let by_digest = [
            format!("r@sha256:{hex}"),
            format!("r:latest@sha256:{hex}"),
            format!("localhost:5000/r@sha256:{hex}"),
        ];
        let pinned = [
            "r:0.8.2",
            "r:v1.2.3",
            "r:sha-abc",
            "r:2026-04-30",
            "r:build-1",
            "workspace-template:hermes",
            "localhost:5000/r:0.8.2",
            "r:Latest",
            "r:latest-1",
            "r:main2",
        ];
        for text in pinned
            .into_iter()
            .chain(by_digest.iter().map(String::as_str))
        {
            assert!(!Reference::parse(text).is_moving(), "{text}");
        }
    }

    #[test]
    fn the_host_is_the_first_part_that_looks_like_one() {
        for (text, host) in [
            ("r", "docker.io"),
            ("o/r:1", "docker.io"),
            ("molecule-local/workspace-template-x:abc", "docker.io"),
            ("docker.io/o/r", "docker.io"),
            ("index.docker.io/o/r", "docker.io"),
            ("ghcr.io/o/r", "ghcr.io"),
            ("GHCR.io/o/r", "ghcr.io"),
            ("localhost/r", "localhost"),
            ("localhost:5000/r", "localhost:5000"),
            ("registry:5000/r@sha256:ab", "registry:5000"),
            ("[::1]:5000/r:1", "[::1]:5000"),
            ("ghcr.io:5", "docker.io"),
        ] {
            assert_eq!(Reference::parse(text).host(), host, "{text}");
        }
    }

    #[test]
    fn repositories_are_equal_as_a_whole_or_not_at_all() {
        let same =
            |a: &str, b: &str| Reference::parse(a).is_of_same_repository(&Reference::parse(b));
        let template = "ghcr.io/acme/workspace-template-claude";
        assert!(same(template, &format!("{template}:latest")));
        assert!(same(
            &format!("{template}:1"),
            &format!("{template}@sha256:ab")
        ));
        assert!(same("r", "docker.io/library/r:2"));
        assert!(same("o/r", "index.docker.io/o/r"));
        for other in [
            "ghcr.io/acme/workspace-template-claude-code",
            "ghcr.io/acme/workspace-template-claud",
            "ghcr.io/acme/x/workspace-template-claude",
            "ghcr.io/other/workspace-template-claude",
            "quay.io/acme/workspace-template-claude",
            "acme/workspace-template-claude",
            "ghcr.io:443/acme/workspace-template-claude",
        ] {
            assert!(!same(template, other), "{other}");
        }
    }

    #[test]
    fn a_tag_is_added_only_where_there_is_none() {
        for (text, tagged) in [
            ("localhost:5000/r", "localhost:5000/r:latest"),
            ("localhost:5000/r:1", "localhost:5000/r:1"),
            ("r:", "r:latest"),
            ("r@sha256:ab", "r@sha256:ab"),
        ] {
            assert_eq!(Reference::parse(text).with_tag(), tagged);
        }
    }

    #[test]
    fn only_references_that_a_daemon_could_know_are_plausible() {
        for text in [
            "r",
            "r:1",
            "o/r",
            "host:5000/own@sha256:ab",
            "ghcr.io/a_b/c-d.e:V1.2_3",
            "molecule-local/workspace-template-x:0123456789ab",
        ] {
            assert!(Reference::parse(text).is_plausible(), "{text}");
        }
        let long = "a".repeat(600);
        for text in [
            "",
            "/r",
            "r/",
            "o//r",
            "../containers/json",
            "o/../../r",
            "https://ghcr.io/o/r",
            "user:secret@ghcr.io/o/r",
            "ghcr.io/o/r:1?x=y",
            "ghcr.io/o/r#1",
            "ghcr.io/o/r%2f",
            "Upper/case",
            "r:a b",
            "r:\u{e4}",
            "r@sha256",
            "r@",
            "a.-.b/-",
            &long,
        ] {
            assert!(!Reference::parse(text).is_plausible(), "{text}");
        }
    }

    /// The contract's sentence, word by word.
    fn is_moving_by_the_book(text: &str) -> bool {
        if text.contains("@sha256:") {
            return false;
        }
        let tag = match text.rfind(':') {
            Some(at) if !text[at + 1..].contains('/') => &text[at + 1..],
            _ => "",
        };
        tag.is_empty()
            || "latest staging main dev edge nightly rolling"
                .split(' ')
                .any(|t| t == tag)
    }

    fn part() -> impl Strategy<Value = String> {
        "[a-z0-9]{1,8}(-[a-z0-9]{1,4})?"
    }

    fn name() -> impl Strategy<Value = String> {
        let host = prop_oneof![
            Just(String::new()),
            Just("ghcr.io/".to_owned()),
            Just("localhost:5000/".to_owned()),
            part().prop_map(|owner| format!("{owner}/")),
        ];
        (host, part()).prop_map(|(host, last)| format!("{host}{last}"))
    }

    proptest! {
        #[test]
        fn any_text_has_parts(text in ".{0,80}") {
            let reference = Reference::parse(&text);
            prop_assert_eq!(reference.is_moving(), is_moving_by_the_book(&text));
            prop_assert!(text.starts_with(reference.name()));
            prop_assert!(!reference.host().is_empty());
            prop_assert!(reference.is_of_same_repository(&reference));
            let _ = (reference.is_plausible(), reference.with_tag());
        }

        #[test]
        fn texts_made_of_separators_have_parts_too(text in "[a-z:/@.]{0,24}(@sha256:[a-f0-9]{0,4})?") {
            let reference = Reference::parse(&text);
            prop_assert_eq!(reference.is_moving(), is_moving_by_the_book(&text));
            if reference.is_plausible() {
                let tagged = reference.with_tag();
                prop_assert!(Reference::parse(&tagged).is_plausible());
                prop_assert!(Reference::parse(&tagged).is_of_same_repository(&reference));
            }
        }

        #[test]
        fn tag_and_digest_do_not_change_the_repository(
            name in name(), tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", hex in "[a-f0-9]{64}",
        ) {
            let bare = Reference::parse(&name);
            prop_assert!(bare.is_plausible() && bare.is_moving());
            for (text, pinned) in [
                (format!("{name}:{tag}"), !MOVING_TAGS.contains(&tag.as_str())),
                (format!("{name}@sha256:{hex}"), true),
                (format!("{name}:{tag}@sha256:{hex}"), true),
            ] {
                let reference = Reference::parse(&text);
                prop_assert_eq!(reference.name(), name.as_str());
                prop_assert!(reference.is_plausible());
                prop_assert!(reference.is_of_same_repository(&bare));
                prop_assert_eq!(reference.is_moving(), !pinned);
                prop_assert_eq!(reference.host(), bare.host());
            }
        }

        #[test]
        fn another_name_is_another_repository(name in name(), more in part()) {
            let longer = format!("{name}-{more}");
            prop_assert!(!Reference::parse(&name).is_of_same_repository(&Reference::parse(&longer)));
        }
    }
}
