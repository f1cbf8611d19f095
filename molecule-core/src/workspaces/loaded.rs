//! What agents say of the plugins they have loaded.

use molecule_hooks::PluginName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Plugins of one report that are kept.
const MAX_PLUGINS: usize = 256;
const MAX_VERSION_BYTES: usize = 64;
const MAX_DIGEST_BYTES: usize = 64;
const MAX_ERROR_BYTES: usize = 256;

/// A plugin that an agent has loaded, or could not load.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub(crate) struct LoadedPlugin {
    /// Name of its folder.
    pub(crate) name: String,
    /// As its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// Digest of its tree, as its marker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree_sha256: Option<String>,
    /// Its revision, as its marker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha: Option<String>,
    /// Why it could not be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl LoadedPlugin {
    /// Reads the list of a report, in one order whatever the agent's, with texts masked
    /// by `redact`, then cut where they are too long, and without names that no plugin
    /// can have. None for what is no such list: an agent is not refused for it.
    pub(crate) fn list(reported: &Value, redact: impl Fn(&str) -> String) -> Option<Vec<Self>> {
        let items = reported.as_array()?;
        if items.len() > MAX_PLUGINS {
            return None;
        }
        let read = items.iter().map(|item| Self::read(item, &redact));
        let mut list: Vec<Self> = read.collect::<Option<_>>()?;
        list.retain(|plugin| PluginName::parse(&plugin.name).is_some());
        list.sort_unstable();
        list.dedup_by(|one, other| one.name == other.name);
        Some(list)
    }

    fn read(item: &Value, redact: &impl Fn(&str) -> String) -> Option<Self> {
        let text = |key: &str| match item.get(key) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) => Some(Some(text.as_str())),
            Some(_) => None,
        };
        let digest = |key: &str| {
            let text = text(key)?.filter(|text| is_digest(text));
            Some(text.map(str::to_owned))
        };
        // A secret of which only the beginning is left is not known for one any more.
        let shown = |key: &str, most| Some(text(key)?.map(|text| cut(&redact(text), most)));
        Some(Self {
            name: item.get("name")?.as_str()?.to_owned(),
            version: shown("version", MAX_VERSION_BYTES)?,
            tree_sha256: digest("tree_sha256")?,
            sha: digest("sha")?,
            error: shown("error", MAX_ERROR_BYTES)?,
        })
    }

    /// Reads what was stored; nothing of what cannot be read.
    pub(crate) fn stored(text: &str) -> Option<Vec<Self>> {
        serde_json::from_str(text).ok()
    }
}

fn is_digest(text: &str) -> bool {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex && !text.is_empty() && text.len() <= MAX_DIGEST_BYTES
}

/// PostgreSQL cannot store NUL.
fn cut(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn list(reported: &Value) -> Option<Vec<LoadedPlugin>> {
        LoadedPlugin::list(reported, str::to_owned)
    }

    #[test]
    fn a_secret_at_the_cut_is_masked_as_a_whole() {
        let redact = |text: &str| text.replace("hunter2-hunter2", "***");
        let said = |before: usize| format!("{}hunter2-hunter2", "x".repeat(before));
        for before in MAX_ERROR_BYTES - 20..MAX_ERROR_BYTES {
            let report = json!([{ "name": "a", "error": said(before), "version": said(60) }]);
            let list = LoadedPlugin::list(&report, redact).unwrap();
            let shown = serde_json::to_string(&list).unwrap();
            assert!(!shown.contains('h'), "{before}: {shown}");
        }
    }

    #[test]
    fn a_list_is_read_in_one_order_and_bounded() {
        let long = "é".repeat(1000);
        let list = list(&json!([
            { "name": "b", "version": "1.0", "tree_sha256": "abc", "sha": null, "more": [1] },
            { "name": "a", "error": long },
            { "name": "b" },
            { "name": "no such name", "version": "1" },
            { "name": "c", "tree_sha256": "not hexadecimal", "sha": "a".repeat(65) },
        ]));
        let list = list.unwrap();
        let names: Vec<&str> = list.iter().map(|plugin| plugin.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(list[0].error.as_ref().unwrap().len(), MAX_ERROR_BYTES);
        assert_eq!(list[1].version, None, "of two with one name one counts");
        assert_eq!((&list[2].tree_sha256, &list[2].sha), (&None, &None));
        let stored = serde_json::to_string(&list).unwrap();
        assert_eq!(LoadedPlugin::stored(&stored), Some(list));
        assert_eq!(super::tests::list(&json!([])), Some(vec![]));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for bad in [
            json!(null),
            json!("a"),
            json!({ "name": "a" }),
            json!(["a"]),
            json!([{}]),
            json!([{ "name": 5 }]),
            json!([{ "name": "a", "version": 1.0 }]),
            json!([{ "name": "a", "error": ["x"] }]),
            json!(vec![json!({ "name": "a" }); MAX_PLUGINS + 1]),
        ] {
            assert_eq!(list(&bad), None, "{bad}");
        }
        for bad in ["", "null", "[", "{}", "[1]"] {
            assert_eq!(LoadedPlugin::stored(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn anything_at_all_is_read_or_refused(name in ".{0,200}", version in ".{0,200}", error in ".{0,600}") {
            let item = json!({ "name": name, "version": version, "error": error });
            if let Some(list) = list(&json!([item, { "name": "plain", "error": error }])) {
                prop_assert!(!list.is_empty());
                let stored = serde_json::to_string(&list).unwrap();
                prop_assert!(!stored.contains('\0'));
                prop_assert!(stored.len() < 4096);
                prop_assert_eq!(LoadedPlugin::stored(&stored), Some(list));
            }
        }
    }
}
