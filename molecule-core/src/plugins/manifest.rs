//! `plugin.yaml`.

use serde::Serialize;
use utoipa::ToSchema;

/// What a plugin says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Manifest {
    pub(super) version: String,
    pub(super) description: String,
    pub(super) author: String,
    pub(super) tags: Vec<String>,
    pub(super) skills: Vec<String>,
    pub(super) runtimes: Vec<String>,
}

/// A plugin as the API shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PluginRecord {
    name: String,
    version: String,
    description: String,
    author: String,
    tags: Vec<String>,
    skills: Vec<String>,
    runtimes: Vec<String>,
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let Ok(serde_yaml::Value::Mapping(map)) = serde_yaml::from_slice(bytes) else {
            return Self::default();
        };
        let text = |key: &str| {
            map.get(key)
                .and_then(|v| v.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let list = |key: &str| {
            let items = map.get(key).and_then(|v| v.as_sequence());
            let items = items.into_iter().flatten().filter_map(|v| v.as_str());
            items.map(str::to_owned).collect()
        };
        Self {
            version: text("version"),
            description: text("description"),
            author: text("author"),
            tags: list("tags"),
            skills: list("skills"),
            runtimes: list("runtimes"),
        }
    }

    pub(super) fn supports(&self, runtime: &str) -> bool {
        let plain = |text: &str| text.replace('-', "_");
        self.runtimes.is_empty() || self.runtimes.iter().any(|own| plain(own) == plain(runtime))
    }

    pub(super) fn record(&self, name: &str) -> PluginRecord {
        PluginRecord {
            name: name.to_owned(),
            version: self.version.clone(),
            description: self.description.clone(),
            author: self.author.clone(),
            tags: self.tags.clone(),
            skills: self.skills.clone(),
            runtimes: self.runtimes.clone(),
        }
    }
}
