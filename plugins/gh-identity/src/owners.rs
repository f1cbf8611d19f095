use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};

use molecule_hooks::{HookError, tracing};
use serde::Deserialize;

/// Far more than any organisation's roles need.
const LARGEST_FILE_BYTES: u64 = 256 * 1024;
/// The entry that stands for every role not listed.
const DEFAULT: &str = "default";

/// Which GitHub login owns which role.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    /// By lower-case role; no empty logins.
    by_role: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    roles: Option<BTreeMap<String, Option<Role>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    owner: Option<String>,
}

impl Owners {
    /// Reads the file; no path or no such file means that nobody owns anything.
    pub(crate) fn load(path: &str) -> Result<Self, HookError> {
        if path.is_empty() {
            return Ok(Self::default());
        }
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!("gh-identity: the config file does not exist; no role has an owner");
                return Ok(Self::default());
            }
            Err(error) => {
                let what = format!("gh-identity: read config {path:?}: {error}");
                return Err(HookError::config(what));
            }
        };
        Self::parse(&text).map_err(|problem| {
            HookError::config(format!("gh-identity: parse config {path:?}: {problem}"))
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        // A typed map would silently keep the last of two equal keys; reading the
        // text as a plain tree first refuses them.
        let document = serde_yaml::from_str::<serde_yaml::Value>(text)
            .and_then(|_| serde_yaml::from_str::<Option<Document>>(text))
            .map_err(|error| error.to_string())?;
        let roles = document.unwrap_or_default().roles.unwrap_or_default();
        let mut problems = Vec::new();
        let mut spellings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut by_role = BTreeMap::new();
        for (role, entry) in roles {
            let key = role.trim().to_lowercase();
            let owner = entry.and_then(|entry| entry.owner).unwrap_or_default();
            let owner = owner.trim();
            if owner.chars().any(|c| c.is_whitespace() || c.is_control()) {
                problems.push(format!("the owner of {role:?} is not a GitHub login"));
            }
            spellings.entry(key.clone()).or_default().push(role);
            if !owner.is_empty() {
                by_role.insert(key, owner.to_owned());
            }
        }
        for same in spellings.values().filter(|same| same.len() > 1) {
            let names: Vec<String> = same.iter().map(|role| format!("{role:?}")).collect();
            problems.push(format!("{} are the same role", names.join(" and ")));
        }
        if problems.is_empty() {
            Ok(Self { by_role })
        } else {
            Err(problems.join("; "))
        }
    }

    /// The login that owns `role`, or the default one, or the empty string.
    pub(crate) fn of(&self, role: &str) -> &str {
        self.by_role
            .get(&role.to_lowercase())
            .or_else(|| self.by_role.get(DEFAULT))
            .map_or("", String::as_str)
    }
}

fn read(path: &str) -> io::Result<String> {
    let file = File::open(path)?;
    // Reading a pipe or a device could block for ever.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE_BYTES {
        return Err(io::Error::other(format!(
            "larger than {LARGEST_FILE_BYTES} bytes"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::Owners;

    #[test]
    fn a_role_is_found_in_any_case_then_the_default_then_nobody() {
        let owners = Owners::parse(
            "roles: {Pmm-Lead: {owner: alice}, Qa: {owner: ''}, Dev: {}, Ops: , default: {owner: bot}}",
        )
        .unwrap();
        for (role, owner) in [
            ("Pmm-Lead", "alice"),
            ("PMM-LEAD", "alice"),
            ("Qa", "bot"),
            ("Dev", "bot"),
            ("Ops", "bot"),
            ("Other", "bot"),
        ] {
            assert_eq!(owners.of(role), owner, "{role}");
        }
        let owners = Owners::parse("roles: {A: {owner: alice}}").unwrap();
        assert_eq!(owners.of("B"), "");
    }

    #[test]
    fn nothing_is_a_valid_file() {
        for text in ["", "# comment\n", "{}", "roles:", "roles: {}"] {
            assert_eq!(Owners::parse(text), Ok(Owners::default()), "{text:?}");
        }
    }

    #[test]
    fn unknown_keys_duplicates_and_odd_owners_are_refused() {
        for (text, part) in [
            ("role: {}", "unknown field `role`"),
            ("roles: {A: {owner: a, x: 1}}", "unknown field `x`"),
            ("roles: {A: alice}", "roles.A"),
            ("roles: {a: {owner: x}, A: {owner: y}}", "the same role"),
            ("roles: {É: {owner: x}, é: {owner: y}}", "the same role"),
            ("roles: {A: {owner: x}, A: {owner: y}}", "duplicate"),
            ("roles: {A: {owner: 'a b'}}", "not a GitHub login"),
            ("roles: [", "line"),
        ] {
            let problem = Owners::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
        let both = Owners::parse("roles: {a: {owner: 'x y'}, A: {}, b: {}, B: {}}").unwrap_err();
        assert_eq!(both.matches("; ").count(), 2, "{both}");
    }
}
