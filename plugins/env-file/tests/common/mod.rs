//! What every test of this crate needs: files, a registry.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use molecule_hook_env_file as _;
use molecule_hooks::{
    EnvMap, HookError, HooksConfig, RegisteredHook, Registry, RegistryError, WorkspaceContext,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const ID: &str = "7aa08951-00d0-4000-8000-000000000001";

/// A folder with `roles/` and `workspaces/`.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        for folder in ["roles", "workspaces"] {
            fs::create_dir(files.path(folder)).unwrap();
        }
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn write(&self, name: &str, text: &str) {
        self.write_with_mode(name, text.as_bytes(), 0o600);
    }

    pub(crate) fn write_with_mode(&self, name: &str, bytes: &[u8], mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // In one step, because a boot may read at any time.
        let new = path.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// The hook on both folders, with `more` on top.
    pub(crate) fn hook(&self, more: Value) -> RegisteredHook {
        let mut section = json!({
            "roles_dir": self.path("roles"),
            "workspaces_dir": self.path("workspaces"),
        });
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        build(section).unwrap()
    }
}

pub(crate) fn build(section: Value) -> Result<RegisteredHook, RegistryError> {
    let config = HooksConfig::new().with_section("env-file", section);
    let registry = Registry::from_linked(&config)?;
    Ok(registry.snapshot().pop().expect("the hook is configured"))
}

/// A workspace called Ada with this role.
pub(crate) fn workspace(role: &str) -> WorkspaceContext {
    WorkspaceContext::new(ID).with_name("Ada").with_role(role)
}

pub(crate) async fn boot(hook: &RegisteredHook, role: &str) -> (Result<(), HookError>, EnvMap) {
    let mut env = EnvMap::new();
    env.set_secret("BY_HAND", "stored-by-hand").unwrap();
    let result = hook.apply(&workspace(role), &mut env).await;
    (result, env)
}
