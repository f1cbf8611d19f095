use molecule_hooks::{ConfigField, HookConfig};
use serde::Deserialize;

/// The hook's section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) config_file: Option<String>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[ConfigField::new(
        "config_file",
        "YAML file that says which GitHub login owns which role",
    )
    .env("MOLECULE_GH_IDENTITY_CONFIG_FILE")
    .example("/etc/molecule/gh-identity.yaml")];
}
