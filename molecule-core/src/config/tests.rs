//! Loading: all problems at once, nothing secret in any of them.

use std::collections::BTreeMap;
use std::io::Write;

use super::{Config, Environment, Sources, example};

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(yaml: &str, pairs: &[(&str, &str)]) -> Result<Config, super::ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    Config::from_sources(Sources::new(Some(file.path().to_owned()), env(pairs)))
}

const DEV: (&str, &str) = ("MOLECULE_ENV", "development");

#[test]
fn the_example_decodes_to_exactly_the_defaults() {
    let key = "0123456789abcdef0123456789abcdef";
    let secrets = [
        ("ADMIN_TOKEN", "an-administrator-token"),
        ("SECRETS_ENCRYPTION_KEY", key),
    ];
    let mut from_example = load(&example(), &secrets).unwrap();
    let mut defaults = Config::from_sources(Sources::new(None, env(&secrets))).unwrap();
    for config in [&mut from_example, &mut defaults] {
        config.hooks.env.clear();
    }
    assert_eq!(format!("{from_example:?}"), format!("{defaults:?}"));
}

#[test]
fn every_problem_is_listed_and_no_secret_is_quoted() {
    let yaml = "
environment: production
server: { port: many, tls: true }
databse: {}
auth: { admin_token: [hunter2-in-a-list] }
secrets: { encryption_key: not-a-key-hunter2 }
backend: { kind: teleport, process: { command: 5 } }
";
    let error = load(
        yaml,
        &[
            ("PROVISION_TIMEOUT_SECONDS", "soon"),
            ("PLATFORM_URL", "nonsense"),
        ],
    )
    .unwrap_err();
    let text = error.to_string();
    for expected in [
        "server.port",
        "tls",
        "databse",
        "auth.admin_token",
        "secrets.encryption_key",
        "backend.kind",
        "backend.process.command",
        "PROVISION_TIMEOUT_SECONDS",
        "server.platform_url",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn the_environment_wins_over_the_file_and_empty_variables_do_not_count() {
    let config = load("server: { port: 1 }", &[DEV, ("PORT", "2")]).unwrap();
    assert_eq!(config.server.port, 2);
    let config = load("server: { port: 1 }", &[DEV, ("PORT", " ")]).unwrap();
    assert_eq!(config.server.port, 1);
}

#[test]
fn one_enum_for_the_environment_with_aliases_in_any_case() {
    let secrets = [
        ("ADMIN_TOKEN", "an-administrator-token"),
        ("SECRETS_ENCRYPTION_KEY", "0123456789abcdef0123456789abcdef"),
    ];
    for (value, expected) in [
        ("dev", Environment::Development),
        ("Development", Environment::Development),
        ("PROD", Environment::Production),
        ("production", Environment::Production),
        ("", Environment::Production),
        ("staging", Environment::Staging),
    ] {
        let mut pairs = secrets.to_vec();
        pairs.push(("MOLECULE_ENV", value));
        assert_eq!(load("", &pairs).unwrap().environment, expected, "{value:?}");
    }
    assert!(
        load("", &[("MOLECULE_ENV", "prodction")])
            .unwrap_err()
            .to_string()
            .contains("environment")
    );
}

#[test]
fn outside_development_an_administrator_and_a_key_are_required() {
    let text = load("", &[]).unwrap_err().to_string();
    assert!(
        text.contains("ADMIN_TOKEN") && text.contains("SECRETS_ENCRYPTION_KEY"),
        "{text}"
    );
    let text = load("", &[("MOLECULE_ENV", "staging")])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("ADMIN_TOKEN") && !text.contains("SECRETS_ENCRYPTION_KEY"),
        "{text}"
    );
    assert!(load("", &[DEV]).unwrap().is_fail_open());
}

#[test]
fn a_set_but_invalid_key_is_fatal_everywhere() {
    let text = load("", &[DEV, ("SECRETS_ENCRYPTION_KEY", "too-short")])
        .unwrap_err()
        .to_string();
    assert!(text.contains("secrets.encryption_key"), "{text}");
}

#[test]
fn the_administrator_token_is_trimmed_as_a_bearer_is() {
    let config = load("auth: { admin_token: ' from-the-file ' }", &[DEV]).unwrap();
    assert_eq!(config.auth.admin_token.unwrap().expose(), "from-the-file");
}

#[test]
fn a_secret_file_is_read_and_not_mixed_with_the_value() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, " token-from-a-file \t").unwrap();
    let path = file.path().to_str().unwrap();
    let config = load("", &[DEV, ("ADMIN_TOKEN_FILE", path)]).unwrap();
    assert_eq!(
        config.auth.admin_token.unwrap().expose(),
        "token-from-a-file"
    );
    let both = load(
        "",
        &[
            DEV,
            ("ADMIN_TOKEN_FILE", path),
            ("ADMIN_TOKEN", "token-from-env"),
        ],
    );
    assert!(both.unwrap_err().to_string().contains("not both"));
}

#[test]
fn tier_limits_come_from_their_variables() {
    let config = load(
        "",
        &[DEV, ("TIER3_MEMORY_MB", "77"), ("TIER2_CPU_SHARES", "88")],
    )
    .unwrap();
    assert_eq!(config.backend.docker.memory_mb, [512, 77, 4096]);
    assert_eq!(config.backend.docker.cpu_shares, [88, 2048, 4096]);
    assert!(load("", &[DEV, ("TIER4_MEMORY_MB", "-1")]).is_err());
}

#[test]
fn files_that_are_no_configuration_are_named() {
    for yaml in ["- a\n- b", "a: [", "just text"] {
        assert!(load(yaml, &[DEV]).is_err(), "{yaml}");
    }
    let missing = Sources::new(Some("/nonexistent/molecule.yaml".into()), env(&[DEV]));
    assert!(
        Config::from_sources(missing)
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
}

#[test]
fn a_wrong_value_is_described_without_the_words_of_rust_and_its_variable_is_named() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 6] = [
        (
            "{}",
            &[DEV, ("PORT", "80000")],
            "server.port: invalid value: integer, expected a whole number from 0 to 65535 (PORT sets it)",
        ),
        (
            "server: { port: 80000 }",
            &[DEV],
            "server.port: invalid value: integer, expected a whole number from 0 to 65535",
        ),
        (
            "hooks: { config: [a] }",
            &[DEV],
            "hooks.config: must be a mapping of keys to values, not a list",
        ),
        (
            "plugins: [a]",
            &[DEV],
            "plugins: must be a mapping of keys to values, not a list",
        ),
        (
            "retention: [1]",
            &[DEV],
            "retention: must be a mapping of keys to values, not a list",
        ),
        (
            "server:\n\tport: 1\n",
            &[DEV],
            "; line 2 is indented with a tab, YAML wants spaces",
        ),
    ];
    for (yaml, variables, expected) in cases {
        let text = load(yaml, variables).unwrap_err().to_string();
        assert!(
            text.ends_with(expected),
            "{expected} is not the end of:\n{text}"
        );
    }
}

#[test]
fn what_could_not_be_read_is_not_also_called_missing() {
    let text = load("environment: moon", &[]).unwrap_err().to_string();
    assert!(
        text.contains("environment") && !text.contains("is required"),
        "{text}"
    );
    let text = load("auth: { admin_token: [x] }", &[])
        .unwrap_err()
        .to_string();
    assert!(!text.contains("auth.admin_token: is required"), "{text}");
    assert!(
        text.contains("secrets.encryption_key: is required"),
        "{text}"
    );
    let missing = Sources::new(Some("/nonexistent/molecule.yaml".into()), env(&[]));
    let text = Config::from_sources(missing).unwrap_err().to_string();
    assert!(!text.contains("is required"), "{text}");
}

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OLD_KEY: &str = "fedcba9876543210fedcba9876543210";

fn key_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn earlier_keys_come_from_a_list_a_variable_or_a_file() {
    let keys = |config: Config| -> Vec<String> {
        let keys = config.secrets.previous_encryption_keys.iter();
        keys.map(|key| key.expose().to_owned()).collect()
    };
    let current = ("SECRETS_ENCRYPTION_KEY", KEY);
    let yaml = format!("secrets: {{ previous_encryption_keys: [{OLD_KEY}] }}");
    assert_eq!(keys(load(&yaml, &[DEV, current]).unwrap()), [OLD_KEY]);
    let list = format!("{OLD_KEY}, {KEY}");
    let variable = ("SECRETS_PREVIOUS_ENCRYPTION_KEYS", list.as_str());
    let config = load("{}", &[DEV, current, variable]).unwrap();
    assert_eq!(keys(config), [OLD_KEY, KEY]);
    let file = key_file(&format!("\r\n{OLD_KEY}\r\n\n  {KEY}  \n"));
    let path = file.path().to_str().unwrap();
    let variable = ("SECRETS_PREVIOUS_ENCRYPTION_KEYS_FILE", path);
    let config = load("{}", &[DEV, current, variable]).unwrap();
    assert_eq!(keys(config), [OLD_KEY, KEY]);
    let empty = key_file("\n \n");
    let variable = (variable.0, empty.path().to_str().unwrap());
    assert!(keys(load("{}", &[DEV, current, variable]).unwrap()).is_empty());
}

#[test]
fn every_problem_with_earlier_keys_is_listed_and_no_key_is_quoted() {
    let file = key_file("hunter2-a\n\nhunter2-b\n");
    let path = file.path().to_str().unwrap();
    let file = ("SECRETS_PREVIOUS_ENCRYPTION_KEYS_FILE", path);
    let list = ("SECRETS_PREVIOUS_ENCRYPTION_KEYS", "hunter2-c");
    let current = ("SECRETS_ENCRYPTION_KEY", KEY);
    let many = vec![OLD_KEY; 33].join(",");
    let many = ("SECRETS_PREVIOUS_ENCRYPTION_KEYS", many.as_str());
    let missing = ("SECRETS_PREVIOUS_ENCRYPTION_KEYS_FILE", "/does/not/exist");
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 7] = [
        (
            "{}",
            &[DEV, current, file],
            &[
                "secrets.previous_encryption_keys[0]: must be 32 bytes",
                "secrets.previous_encryption_keys[1]: must be 32 bytes",
            ],
        ),
        ("{}", &[DEV, current, file, list], &["not both"]),
        (
            "{}",
            &[DEV, list],
            &[
                "secrets.encryption_key: is required with",
                "previous_encryption_keys[0]",
            ],
        ),
        ("{}", &[DEV, current, many], &["at most 32"]),
        (
            "{}",
            &[DEV, current, missing],
            &["secrets.previous_encryption_keys_file: cannot be read"],
        ),
        (
            "secrets: { previous_encryption_keys: hunter2-d }",
            &[DEV, current],
            &["secrets.previous_encryption_keys: invalid type"],
        ),
        (
            "{ secrets: { previous_encryption_keys: [[hunter2-e]] }, log: { format: 5 } }",
            &[DEV, current],
            &["secrets.previous_encryption_keys", "log.format"],
        ),
    ];
    for (yaml, variables, expected) in cases {
        let text = load(yaml, variables).unwrap_err().to_string();
        for part in expected {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(
            !text.contains("hunter2") && !text.contains(OLD_KEY),
            "{text}"
        );
    }
}

#[test]
fn an_empty_platform_means_no_preference_and_not_the_default() {
    let yaml = "backend: { docker: { image_platform: linux/arm64 } }";
    let platform = |pairs: &[(&str, &str)]| {
        let config = load(yaml, pairs).unwrap();
        config.backend.docker.image_platform
    };
    let none = platform(&[DEV, ("MOLECULE_IMAGE_PLATFORM", "")]);
    assert_eq!(none.as_deref(), Some(""));
    let other = platform(&[DEV, ("MOLECULE_IMAGE_PLATFORM", " linux/amd64 ")]);
    assert_eq!(other.as_deref(), Some("linux/amd64"));
    assert_eq!(platform(&[DEV]).as_deref(), Some("linux/arm64"));
    let unset = load("", &[DEV, ("MOLECULE_IMAGE_REGISTRY", "")]).unwrap();
    assert_eq!(unset.backend.docker.image_platform, None);
    assert_eq!(unset.backend.docker.image_registry, None);
}

#[test]
fn a_start_is_given_some_time_between_two_signs_of_progress() {
    for secs in ["0", "86401"] {
        let yaml = format!("workspaces:\n  provision_quiet_secs: {secs}\n");
        let error = load(&yaml, &[DEV]).unwrap_err().to_string();
        let expected = "workspaces.provision_quiet_secs: must be between 1 and 86400";
        assert!(error.contains(expected), "{error}");
    }
    let config = load("workspaces:\n  provision_quiet_secs: 1\n", &[DEV]).unwrap();
    assert_eq!(config.workspaces.provision_quiet_secs, 1);
}

#[test]
fn limits_of_plugins_that_make_no_sense_in_the_environment_are_ignored_with_a_warning() {
    for (name, value) in [
        ("PLUGIN_INSTALL_FETCH_TIMEOUT", "0"),
        ("PLUGIN_INSTALL_FETCH_TIMEOUT", "0s"),
        ("PLUGIN_INSTALL_FETCH_TIMEOUT", "1.5m"),
        ("PLUGIN_INSTALL_FETCH_TIMEOUT", "-5s"),
        ("PLUGIN_INSTALL_BODY_MAX_BYTES", "-1"),
        ("PLUGIN_INSTALL_BODY_MAX_BYTES", "0"),
        ("PLUGIN_INSTALL_MAX_DIR_BYTES", "a lot"),
    ] {
        let config = load("", &[DEV, (name, value)]).unwrap();
        let defaults = super::PluginsConfig::default();
        assert_eq!(format!("{:?}", config.plugins), format!("{defaults:?}"));
        let [warning] = &*config.warnings else {
            panic!("{name}={value}: {:?}", config.warnings);
        };
        assert!(warning.starts_with(name), "{warning}");
    }
    let config = load("", &[DEV, ("PLUGIN_INSTALL_FETCH_TIMEOUT", "90s")]).unwrap();
    assert_eq!(config.plugins.install_timeout_secs, 90);
    assert_eq!(config.warnings, [""; 0]);
    // The file has no such excuse
    for field in [
        "install_timeout_secs",
        "install_body_max_bytes",
        "max_dir_bytes",
    ] {
        let error = load(&format!("plugins: {{ {field}: 0 }}"), &[DEV]).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    let error = load("plugins: { install_timeout_secs: 86401 }", &[DEV]).unwrap_err();
    assert!(error.to_string().contains("at most 86400"), "{error}");
    assert!(load("warnings: [x]", &[DEV]).is_err());
}

#[test]
fn unpinned_plugins_are_let_in_by_exactly_one_word() {
    for (value, expected) in [
        ("true", true),
        ("TRUE", false),
        ("1", false),
        ("yes", false),
        ("on", false),
        (" true", false),
        ("false", false),
        ("", false),
    ] {
        let config = load("", &[DEV, ("PLUGIN_ALLOW_UNPINNED", value)]).unwrap();
        assert_eq!(config.plugins.allow_unpinned, expected, "{value:?}");
    }
}
