use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use molecule_hooks::{ConfigField, HookConfig, HookError, Secret, check_env_name};
use serde::Deserialize;

use crate::sops::Sops;

const LONGEST_TIMEOUT_SECS: u64 = 8;
const TIMEOUT_SECS: u64 = 5;
/// Where `sops` and what it calls are looked for unless sops_env says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The section as it was written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    common_file: Option<String>,
    roles_dir: Option<String>,
    workspaces_dir: Option<String>,
    sops_program: Option<String>,
    sops_env: Option<BTreeMap<String, Secret>>,
    sops_timeout_secs: Option<u64>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("common_file", "file with variables of every workspace")
            .example("/etc/molecule/common.env"),
        ConfigField::new("roles_dir", "folder with <role>/env for each role")
            .env("MOLECULE_PERSONA_ROOT")
            .example("/etc/molecule-bootstrap/personas"),
        ConfigField::new(
            "workspaces_dir",
            "folder with <name>/env and <id>/env for single workspaces",
        )
        .example("/etc/molecule/workspaces"),
        ConfigField::new("sops_program", "the sops program, a name or a path").example("sops"),
        ConfigField::new("sops_env", "the environment of sops, besides PATH")
            .secret()
            .example(r#"{"SOPS_AGE_KEY_FILE": "/run/secrets/age-key"}"#),
        ConfigField::new("sops_timeout_secs", "longest run of sops, 1 to 8 seconds").example("5"),
    ];

    fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("common_file", &self.common_file),
            ("roles_dir", &self.roles_dir),
            ("workspaces_dir", &self.workspaces_dir),
        ] {
            let value = value.as_deref().unwrap_or_default();
            // A relative path would change its meaning with the folder the server
            // is started in.
            if !value.is_empty() && (!value.starts_with('/') || value.contains('\0')) {
                problems.push(format!("{key} must be an absolute path"));
            }
        }
        let program = self.sops_program.as_deref().unwrap_or("sops");
        if program.is_empty() || program.contains('\0') {
            problems.push("sops_program must be the name or the path of a program".to_owned());
        }
        for (name, value) in self.sops_env.iter().flatten() {
            if check_env_name(name).is_err() || value.expose().contains('\0') {
                problems.push("sops_env must hold names and values of variables".to_owned());
            }
        }
        let timeout = self.sops_timeout_secs.unwrap_or(TIMEOUT_SECS);
        if !(1..=LONGEST_TIMEOUT_SECS).contains(&timeout) {
            problems.push(format!(
                "sops_timeout_secs must be between 1 and {LONGEST_TIMEOUT_SECS} (got {timeout})"
            ));
        }
        problems
    }
}

/// The section after every check.
pub(crate) struct Settings {
    pub(crate) common_file: Option<PathBuf>,
    pub(crate) roles_dir: Option<PathBuf>,
    pub(crate) workspaces_dir: Option<PathBuf>,
    pub(crate) sops: Sops,
}

impl Config {
    /// None when no file and no folder is named. A folder that is not there is an
    /// error: a misspelled one would be silently empty.
    pub(crate) fn resolve(self) -> Result<Option<Settings>, HookError> {
        let path = |text: Option<String>| text.filter(|text| !text.is_empty()).map(PathBuf::from);
        let settings = Settings {
            common_file: path(self.common_file),
            roles_dir: path(self.roles_dir),
            workspaces_dir: path(self.workspaces_dir),
            sops: Sops {
                program: self.sops_program.unwrap_or_else(|| "sops".to_owned()),
                env: environment(self.sops_env.unwrap_or_default()),
                timeout: Duration::from_secs(self.sops_timeout_secs.unwrap_or(TIMEOUT_SECS)),
            },
        };
        let mut problems = Vec::new();
        for (key, path) in [
            ("roles_dir", &settings.roles_dir),
            ("workspaces_dir", &settings.workspaces_dir),
        ] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_dir()) {
                problems.push(format!("{key}: {path:?} is not a folder"));
            }
        }
        if let Some(path) = settings.common_file.as_ref().filter(|path| !path.is_file()) {
            problems.push(format!("common_file: {path:?} is not a file"));
        }
        if !problems.is_empty() {
            return Err(HookError::config(problems.join("; ")));
        }
        let named = settings.common_file.is_some()
            || settings.roles_dir.is_some()
            || settings.workspaces_dir.is_some();
        Ok(named.then_some(settings))
    }
}

fn environment(mut env: BTreeMap<String, Secret>) -> BTreeMap<String, Secret> {
    env.entry("PATH".to_owned())
        .or_insert_with(|| Secret::new(PATH));
    env
}
