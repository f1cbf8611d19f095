use std::fmt;

use molecule_hooks::WorkspaceContext;

/// What may stand in braces.
const PLACEHOLDERS: [&str; 4] = ["role", "runtime", "template", "workspace_id"];
const LONGEST_BYTES: usize = 512;
const LONGEST_VALUE_BYTES: usize = 128;

/// The path of a secret, with the workspace's own words left open:
/// `molecule/roles/{role}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Role,
    Runtime,
    Template,
    WorkspaceId,
}

impl PathTemplate {
    /// Reads a template. The error is the end of a sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_BYTES {
            return Err(format!("is longer than {LONGEST_BYTES} bytes"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, after) = rest.split_at(open);
            let Some((name, tail)) = after[1..].split_once('}') else {
                return Err("has a { without a }".to_owned());
            };
            parts.extend(literal(before)?);
            parts.push(placeholder(name)?);
            rest = tail;
        }
        parts.extend(literal(rest)?);
        let template = Self {
            text: text.to_owned(),
            parts,
        };
        // Whether the segments are good does not depend on the words put in.
        let tried = template.fill(|_| Some("word"));
        match tried.filter(|path| is_path(path)) {
            Some(_) => Ok(template),
            None => Err(
                "must be segments of letters, digits, '.', '_' and '-', joined by single slashes"
                    .to_owned(),
            ),
        }
    }

    /// The path for one workspace. None when it lacks a word, or has one that
    /// could not stand in a path, for example a role that is a sentence.
    pub(crate) fn render(&self, workspace: &WorkspaceContext) -> Option<String> {
        let path = self.fill(|part| match part {
            Part::Text(text) => Some(text),
            Part::Role => word(workspace.role.as_deref()?),
            Part::Runtime => word(&workspace.runtime),
            Part::Template => word(workspace.template.as_deref()?),
            Part::WorkspaceId => word(&workspace.id),
        })?;
        // A word of its own may be "..", even if its letters are allowed.
        is_path(&path).then_some(path)
    }

    fn fill<'a>(&'a self, value: impl Fn(&'a Part) -> Option<&'a str>) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                open => value(open),
            })
            .collect()
    }
}

/// As the operator wrote it.
impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn literal(text: &str) -> Result<Option<Part>, String> {
    if text.contains('}') {
        return Err("has a } without a {".to_owned());
    }
    Ok((!text.is_empty()).then(|| Part::Text(text.to_owned())))
}

fn placeholder(name: &str) -> Result<Part, String> {
    Ok(match name {
        "role" => Part::Role,
        "runtime" => Part::Runtime,
        "template" => Part::Template,
        "workspace_id" => Part::WorkspaceId,
        _ => {
            let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
            return Err(format!("has an unknown placeholder; there are {known}"));
        }
    })
}

/// True for `kv` and `team/kv`: what a path or the mount of an engine may be.
pub(crate) fn is_path(text: &str) -> bool {
    text.split('/').all(|segment| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(is_plain)
    })
}

fn word(value: &str) -> Option<&str> {
    let good =
        !value.is_empty() && value.len() <= LONGEST_VALUE_BYTES && value.bytes().all(is_plain);
    good.then_some(value)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn workspace(role: &str) -> WorkspaceContext {
        let mut workspace = WorkspaceContext::new("7aa08951").with_role(role);
        workspace.runtime = "langgraph".to_owned();
        workspace
    }

    fn render(template: &str, role: &str) -> Option<String> {
        PathTemplate::parse(template)
            .unwrap()
            .render(&workspace(role))
    }

    #[test]
    fn the_words_of_a_workspace_are_put_in() {
        assert_eq!(render("a/b", "x").as_deref(), Some("a/b"));
        assert_eq!(
            render("r/{role}", "pmm-lead").as_deref(),
            Some("r/pmm-lead")
        );
        assert_eq!(
            render("{runtime}/ws-{workspace_id}/{role}.env", "qa").as_deref(),
            Some("langgraph/ws-7aa08951/qa.env")
        );
    }

    #[test]
    fn a_workspace_without_the_word_has_no_path() {
        for role in [
            "",
            "a b",
            "../x",
            "..",
            ".",
            "a/b",
            "é",
            "a\0",
            &"x".repeat(200),
        ] {
            assert_eq!(render("r/{role}", role), None, "{role:?}");
        }
        assert_eq!(render("t/{template}", "x"), None);
        assert_eq!(render("r/.{role}", "."), None);
        let none = WorkspaceContext::new("7aa08951");
        let template = PathTemplate::parse("r/{role}").unwrap();
        assert_eq!(template.render(&none), None);
    }

    #[test]
    fn a_template_that_leads_elsewhere_is_refused() {
        for (text, why) in [
            ("", "must be segments"),
            ("/a", "must be segments"),
            ("a/", "must be segments"),
            ("a//b", "must be segments"),
            ("a/../b", "must be segments"),
            ("./a", "must be segments"),
            ("a b", "must be segments"),
            ("a?b", "must be segments"),
            ("a%2fb", "must be segments"),
            ("{role", "has a { without a }"),
            ("role}", "has a } without a {"),
            ("{Role}", "unknown placeholder; there are {role}"),
            ("{}", "unknown placeholder"),
            ("{{role}}", "unknown placeholder"),
            (&"a".repeat(513), "longer than 512 bytes"),
        ] {
            let problem = PathTemplate::parse(text).unwrap_err();
            assert!(problem.contains(why), "{text}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_stays_where_it_belongs(text in ".{0,40}", role in ".{0,20}") {
            if let Ok(template) = PathTemplate::parse(&text)
                && let Some(path) = template.render(&workspace(&role))
            {
                prop_assert!(is_path(&path), "{path:?}");
            }
        }

        #[test]
        fn a_role_changes_its_own_segment_only(role in "[a-z./-]{1,12}") {
            if let Some(path) = render("roles/{role}/env", &role) {
                prop_assert_eq!(path, format!("roles/{role}/env"));
                prop_assert!(!role.contains('/'));
            }
        }
    }
}
