//! The environment an agent boots with.

use std::collections::HashMap;

use molecule_hooks::Secret;

use super::{BackendError, DEFAULT_ENV, StartSpec, platform_env};

/// Everything an agent gets, each name once: the platform's suggestions, then
/// the workspace's own variables, then the platform's, then `last`. A later
/// value replaces an earlier one.
///
/// # Errors
/// [`BackendError::Failed`] for a name or value that no process can be given.
/// The text does not repeat it.
pub(super) fn agent_env(
    spec: &StartSpec,
    config_path: &str,
    last: Vec<(String, String)>,
) -> Result<Vec<(String, Secret)>, BackendError> {
    let plain = |(name, value): (String, String)| (name, Secret::new(value));
    let all = DEFAULT_ENV
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))
        .chain(spec.env.iter().cloned())
        .chain(platform_env(spec, config_path).into_iter().map(plain))
        .chain(last.into_iter().map(plain));

    let mut merged: Vec<(String, Secret)> = Vec::new();
    let mut position: HashMap<String, usize> = HashMap::new();
    for (name, value) in all {
        if name.is_empty() || name.contains(['=', '\0']) || value.expose().contains('\0') {
            return Err(BackendError::Failed {
                operation: "build environment",
                reason: "a variable has an impossible name or a NUL in its value".to_owned(),
            });
        }
        match position.get(&name) {
            Some(&at) => merged[at].1 = value,
            None => {
                position.insert(name.clone(), merged.len());
                merged.push((name, value));
            }
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::WorkspaceAccess;

    fn spec(env: &[(&str, &str)]) -> StartSpec {
        StartSpec {
            workspace_id: uuid::Uuid::nil(),
            runtime: "langgraph".to_owned(),
            tier: 2,
            platform_url: "http://platform".to_owned(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
            template_dir: None,
            template_root: None,
            files: Vec::new(),
            workspace_dir: None,
            workspace_access: WorkspaceAccess::None,
            existing_config: None,
            reset_session: false,
            image_pin: None,
            image: None,
            plugins: crate::backend::Plugins::none(),
            progress: crate::backend::Progress::none(),
        }
    }

    fn value<'a>(env: &'a [(String, Secret)], name: &str) -> Vec<&'a str> {
        env.iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.expose())
            .collect()
    }

    #[test]
    fn a_workspace_replaces_suggestions_but_not_the_platform() {
        let spec = spec(&[
            ("PYTHONPATH", "/mine"),
            ("PLATFORM_URL", "http://evil"),
            ("KEY", "old"),
            ("KEY", "new"),
        ]);
        let env = agent_env(&spec, "/configs", vec![("PORT".to_owned(), "1".to_owned())]).unwrap();
        assert_eq!(value(&env, "PYTHONPATH"), ["/mine"]);
        assert_eq!(value(&env, "PLUGINS_DIR"), ["/plugins"]);
        assert_eq!(value(&env, "PLATFORM_URL"), ["http://platform"]);
        assert_eq!(value(&env, "KEY"), ["new"]);
        assert_eq!(value(&env, "PORT"), ["1"]);
    }

    #[test]
    fn impossible_variables_are_refused_without_being_shown() {
        for (name, bad) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "hush\0hush")] {
            let error = agent_env(&spec(&[(name, bad)]), "/configs", Vec::new()).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
