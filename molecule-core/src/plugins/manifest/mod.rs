//! `plugin.yaml`, as far as the server looks at it.

mod yaml;

use serde::Serialize;
use utoipa::ToSchema;

use self::yaml::Node;

/// Name of the file at the root of a plugin.
pub(super) const MANIFEST_FILE: &str = "plugin.yaml";
/// A longer manifest is not read: workspaces show the first 64 KiB of theirs, and of
/// that length nobody knows whether it is whole.
pub(super) const MAX_BYTES: usize = 64 * 1024 - 1;
/// More brackets than this are no manifest, and cost a parser more than they are worth.
const MAX_BRACKETS: usize = 4096;

/// What a manifest may come to once its aliases are put in; one without any stays below.
const BUDGET: usize = 4 * MAX_BYTES;

/// What a plugin says about itself. Everything is optional: what is missing or of the
/// wrong type reads as empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) version: String,
    pub(super) description: String,
    pub(super) author: String,
    pub(super) tags: Vec<String>,
    pub(super) skills: Vec<String>,
    pub(super) runtimes: Vec<String>,
}

/// A plugin as answers show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PluginRecord {
    /// The install name.
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
    pub(crate) author: String,
    pub(crate) tags: Vec<String>,
    pub(crate) skills: Vec<String>,
    /// Runtimes that it supports; empty: it may be tried on all.
    pub(crate) runtimes: Vec<String>,
    /// Whether it supports the runtime of the workspace, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) supported_on_runtime: Option<bool>,
}

impl Manifest {
    /// Reads a manifest. What is no YAML mapping, too long, or would take a parser long
    /// is an empty one, never an error.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let brackets = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{'));
        if bytes.len() > MAX_BYTES || brackets.count() > MAX_BRACKETS {
            return Self::default();
        }
        let Some(manifest) = Node::read(bytes, BUDGET) else {
            return Self::default();
        };
        Self {
            version: text(&manifest, "version"),
            description: text(&manifest, "description"),
            author: text(&manifest, "author"),
            tags: texts(&manifest, "tags"),
            skills: texts(&manifest, "skills"),
            runtimes: texts(&manifest, "runtimes"),
        }
    }

    /// Whether the plugin may run on `runtime`: it names no runtime at all, or this one.
    /// `-` and `_` are the same.
    pub(super) fn supports(&self, runtime: &str) -> bool {
        let wanted = runtime.replace('-', "_");
        let mut named = self.runtimes.iter();
        self.runtimes.is_empty() || named.any(|named| named.replace('-', "_") == wanted)
    }

    /// The plugin as answers show it, under its install name.
    pub(super) fn record(&self, name: impl AsRef<str>) -> PluginRecord {
        let this = self.clone();
        PluginRecord {
            name: name.as_ref().to_owned(),
            version: this.version,
            description: this.description,
            author: this.author,
            tags: this.tags,
            skills: this.skills,
            runtimes: this.runtimes,
            supported_on_runtime: None,
        }
    }
}

fn text(manifest: &Node, key: &str) -> String {
    match manifest.get(key) {
        Some(Node::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

fn texts(manifest: &Node, key: &str) -> Vec<String> {
    let items = match manifest.get(key) {
        Some(Node::List(items)) => items.as_slice(),
        _ => &[],
    };
    let texts = items.iter().filter_map(|item| match item {
        Node::Text(text) => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use molecule_hooks::PluginName;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn of(text: &str) -> Manifest {
        Manifest::parse(text.as_bytes())
    }

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn what_the_server_echoes_is_read_and_the_rest_ignored() {
        let manifest = of(
            "name: other\nversion: \"1.2.0\"\ndescription: |\n  two\n  lines\nauthor: Ann\n\
                           tags: [a, b]\nskills:\n- one\nruntimes: [claude-code]\nadapters: {x: y}\nsha256: 1\n",
        );
        assert_eq!(
            manifest,
            Manifest {
                version: "1.2.0".into(),
                description: "two\nlines\n".into(),
                author: "Ann".into(),
                tags: strings(&["a", "b"]),
                skills: strings(&["one"]),
                runtimes: strings(&["claude-code"]),
            }
        );
        let name = PluginName::parse("x").unwrap();
        let record = serde_json::to_value(manifest.record(&name)).unwrap();
        assert_eq!(record["name"], "x");
        assert_eq!(record.as_object().unwrap().len(), 7, "{record}");
        let empty = serde_json::to_value(Manifest::default().record(&name)).unwrap();
        assert_eq!(empty["tags"], serde_json::json!([]));
    }

    #[test]
    fn the_wrong_type_reads_as_empty() {
        let manifest = of("version: 1.0\ndescription: [a]\nauthor: ~\ntags: {a: b}\n\
                           skills: [one, 2, [x], {y: z}, true, ~, two]\nruntimes: python\n");
        let expected = Manifest {
            skills: strings(&["one", "two"]),
            ..Manifest::default()
        };
        assert_eq!(manifest, expected);
        // A tag changes nothing about what it is.
        assert_eq!(of("version: !x \"1\"").version, "1");
    }

    #[test]
    fn what_is_no_manifest_is_an_empty_one() {
        for bytes in [
            &b""[..],
            b"\xff\xfe\x00",
            b"- a\n- b",
            b"just text",
            b"a: [",
            b"\t: x",
            b"version: \"1\"\nversion: \"2\"",
            b"? {a: b}\n: c",
            b"--- !!binary x",
            b"\0\0\0",
        ] {
            assert_eq!(Manifest::parse(bytes), Manifest::default(), "{bytes:?}");
        }
        let long = format!("version: \"1\"\n#{}", "x".repeat(MAX_BYTES));
        // As a workspace shows one that is longer than what it shows
        assert_eq!(
            Manifest::parse(&long.as_bytes()[..64 * 1024]),
            Manifest::default()
        );
        assert_eq!(of(&long), Manifest::default());
        assert_eq!(of("version: \"1\"\n---\nversion: \"2\"").version, "1");
        let merged = of("<<: [{author: y}, {author: z, description: d}]\nauthor: x");
        assert_eq!(
            (merged.author.as_str(), merged.description.as_str()),
            ("x", "d")
        );
        let merged = of("base: &b {version: \"1\"}\n<<: *b\nauthor: x");
        assert_eq!(
            (merged.version.as_str(), merged.author.as_str()),
            ("1", "x")
        );
    }

    #[test]
    fn a_few_bytes_never_become_many() {
        let long = "x".repeat(30_000);
        let aliases = "*a,".repeat(10_000);
        let manifest = of(&format!("author: &a {long}\ntags: [{aliases}]"));
        assert_eq!(manifest, Manifest::default());
        let few = of(&format!("author: &a {long}\ntags: [*a, *a]"));
        assert_eq!(few.tags.len(), 2);
        // Whatever has no alias is read
        let tags = "- x\n".repeat(16_000);
        assert_eq!(of(&format!("tags:\n{tags}")).tags.len(), 16_000);
    }

    #[test]
    fn bombs_cost_nothing_to_speak_of() {
        let mut aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (one, next) in ('a'..='k').zip('b'..) {
            let item = format!("*{one},").repeat(9);
            aliases += &format!("{next}: &{next} [{item}]\n");
        }
        let merges = (1..600).fold("a0: &a0 {k: v}\n".to_owned(), |text, n| {
            let before = n - 1;
            format!("{text}a{n}: &a{n} {{<<: *a{before}, k{n}: *a{before}}}\n")
        });
        for bomb in [
            aliases,
            merges,
            "[".repeat(MAX_BYTES),
            "{".repeat(MAX_BRACKETS),
            "[".repeat(MAX_BRACKETS),
            "- ".repeat(MAX_BYTES / 2),
            "? ".repeat(MAX_BYTES / 2),
            "a: ".repeat(MAX_BYTES / 3),
            "&a ".repeat(MAX_BYTES / 3),
            "!".repeat(MAX_BYTES),
            "\"".repeat(MAX_BYTES),
            "|\n ".repeat(MAX_BYTES / 3),
        ] {
            let start = Instant::now();
            let _ = of(&bomb);
            let (took, head) = (start.elapsed(), &bomb[..8]);
            // Generous: the machine may be busy, and what this is about took minutes.
            assert!(took < Duration::from_secs(20), "{head:?} took {took:?}");
        }
    }

    #[test]
    fn runtimes_are_compared_without_regard_to_dashes() {
        let manifest = of("runtimes: [claude-code, lang_graph]");
        for (runtime, supported) in [
            ("claude_code", true),
            ("claude-code", true),
            ("lang-graph", true),
            ("Claude-Code", false),
            ("claude", false),
            ("", false),
        ] {
            assert_eq!(manifest.supports(runtime), supported, "{runtime}");
        }
        assert!(of("runtimes: []").supports("anything"));
        assert!(of("runtimes: x").supports("anything"));
    }

    proptest! {
        #[test]
        fn no_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn yaml_like_text_is_no_error(text in "[a-c:\\-\\[\\]{}&*!|>'\"%@#?, \n\t]{0,300}") {
            let _ = Manifest::parse(text.as_bytes());
        }

        #[test]
        fn quoted_strings_come_back(version in "\\PC{0,40}", tags in prop::collection::vec("\\PC{0,20}", 0..5)) {
            let json = serde_json::json!({ "version": version, "tags": tags }).to_string();
            let manifest = Manifest::parse(json.as_bytes());
            prop_assert_eq!(manifest.version, version);
            prop_assert_eq!(manifest.tags, tags);
        }
    }
}
