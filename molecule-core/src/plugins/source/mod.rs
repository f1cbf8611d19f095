//! Where plugins come from: `scheme://spec`, and who answers to a scheme.

mod git;
mod local;
mod reference;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use molecule_hooks::{PluginSource, Registry};

pub use self::git::GitSource;
pub use self::local::LocalSource;
pub(super) use self::reference::{LOCAL, SourceRef};
use super::registry::RegistryFolder;
use crate::config::Config;

/// The scheme of repositories at `plugins.github_url`.
pub(super) const GITHUB: &str = "github";

/// The sources of this server, by scheme. One instance, made at start-up, serves
/// everybody. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sources {
    by_scheme: Arc<BTreeMap<String, Arc<dyn PluginSource>>>,
}

impl Sources {
    /// The sources that the server brings, and those of hook crates, which may take the
    /// place of ours.
    pub(super) fn new(config: &Config, hooks: &Registry) -> Self {
        let data = &config.data_dir.0;
        let folder = RegistryFolder::of(config);
        let local = LocalSource::found_by(move || folder.find());
        let url = &config.plugins.github_url;
        let github = GitSource::new(GITHUB, url, data.join("fetches"))
            .within(config.plugins.install_timeout());
        let ours: [Arc<dyn PluginSource>; 2] = [Arc::new(local), Arc::new(github)];
        let mut by_scheme = BTreeMap::new();
        for source in ours.into_iter().chain(hooks.sources()) {
            let scheme = source.scheme().to_owned();
            if !reference::is_scheme(&scheme) {
                tracing::warn!(
                    plugin.scheme = scheme,
                    "no text can name this plugin source"
                );
            }
            by_scheme.insert(scheme, source);
        }
        Self {
            by_scheme: Arc::new(by_scheme),
        }
    }

    /// Who answers to a scheme.
    pub(super) fn get(&self, scheme: &str) -> Option<Arc<dyn PluginSource>> {
        self.by_scheme.get(scheme).cloned()
    }

    /// All schemes, sorted.
    pub(super) fn schemes(&self) -> Vec<String> {
        self.by_scheme.keys().cloned().collect()
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_scheme.keys()).finish()
    }
}
