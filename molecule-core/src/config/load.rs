//! Merging the sources and decoding them, with all problems at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use molecule_hooks::Secret;
use serde_json::{Map, Value};

use super::environment::{ENV_VARS, put};
use super::{Config, suggest, validate};

/// The file used when none is named.
const DEFAULT_FILE: &str = "molecule.yaml";
/// Largest configuration file; a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Largest file with a token or a key.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Everything that is a mapping with known keys.
const SECTIONS: [&str; 15] = [
    "server",
    "database",
    "auth",
    "secrets",
    "backend",
    "backend.docker",
    "backend.docker.local_build",
    "backend.process",
    "control_plane",
    "workspaces",
    "plugins",
    "retention",
    "hooks",
    "hooks.config",
    "log",
];

/// Where a configuration comes from.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Sources {
    /// The configuration file, if any. A file named here must exist.
    pub file: Option<PathBuf>,
    /// The process environment.
    pub env: BTreeMap<String, String>,
}

impl Sources {
    /// The file `explicit`, else `MOLECULE_CONFIG`, else `molecule.yaml` if it
    /// exists; and the environment of this process. Variables that are not
    /// Unicode are left out.
    pub fn of_process(explicit: Option<PathBuf>) -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = explicit.or_else(|| {
            env.get("MOLECULE_CONFIG")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        });
        let found = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        Self {
            file: named.or_else(found),
            env,
        }
    }

    /// Explicit sources.
    pub fn new(file: Option<PathBuf>, env: BTreeMap<String, String>) -> Self {
        Self { file, env }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong with the configuration. `Display` and `Debug` are the
/// same list.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// One sentence per problem, naming the field, the cause and the fix.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} problem(s) with the configuration:",
            self.problems.len()
        )?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// One problem.
    pub(crate) fn single(problem: String) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

/// Decodes everything that can be decoded and lists everything that cannot.
pub(super) fn load(sources: Sources) -> (Config, Vec<String>) {
    let mut problems = Vec::new();
    let mut root = match &sources.file {
        Some(path) => read_file(path).unwrap_or_else(|problem| {
            problems.push(problem);
            Map::new()
        }),
        None => Map::new(),
    };
    let file_is_unread = !problems.is_empty();
    let mut warnings = Vec::new();
    let mut by_environment = Vec::new();
    for var in ENV_VARS {
        let Some(text) = sources.env.get(var.name).filter(|text| var.counts(text)) else {
            continue;
        };
        match var.read(text) {
            Ok(value) => {
                put(&mut root, var.field, value);
                by_environment.push(var);
            }
            Err(problem) if var.is_lenient() => warnings.push(format!("{problem}; ignored")),
            Err(problem) => problems.push(problem),
        }
    }
    warnings.extend(suggest::misspelled_variables(&sources.env));
    let decoded_from = problems.len();
    let mut config = decode(root, &mut problems);
    for problem in &mut problems[decoded_from..] {
        let field = problem.split(": ").next().unwrap_or_default();
        // Somebody would look for the value in the file.
        if let Some(var) = by_environment.iter().find(|var| var.field == field) {
            problem.push_str(&format!(" ({} sets it)", var.name));
        }
    }
    tier_limits(&mut config, &sources.env, &mut problems);
    secret_files(&mut config, &mut problems);
    trim_admin_token(&mut config);
    previous_keys_file(&mut config, &mut problems);
    config.hooks.env = sources.env;
    config.warnings = warnings;
    // What could not be read may well hold what is missed here.
    let unread = problems.clone();
    let missing_for_sure = |problem: &String| {
        let field = problem.split(": ").next().unwrap_or_default();
        let is_unread = |what: &str| unread.iter().any(|unread| unread.starts_with(what));
        let by_environment = field.starts_with("auth.") || field.starts_with("secrets.");
        !problem.contains("is required")
            || !(file_is_unread
                || is_unread(field)
                || (by_environment && is_unread("environment: ")))
    };
    problems.extend(
        validate::problems(&config)
            .into_iter()
            .filter(missing_for_sure),
    );
    (config, problems)
}

fn read_file(path: &Path) -> Result<Map<String, Value>, String> {
    let shown = path.display();
    let text = read_text(path, MAX_FILE_BYTES).map_err(|problem| format!("{shown}: {problem}"))?;
    // Through JSON, so that one kind of value serves files, environment and hooks.
    // JSON lets the last of two equal keys win; YAML's own reader refuses both.
    let unique = serde_yaml::from_str::<serde_yaml::Value>(&text);
    match unique.and_then(|_| serde_yaml::from_str::<Value>(&text)) {
        Ok(Value::Object(root)) => Ok(root),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(format!("{shown}: must be a mapping of keys to values")),
        Err(error) => {
            let advice = suggest::spaces_for_tabs(&text);
            Err(format!("{shown}: is not valid YAML: {error}{advice}"))
        }
    }
}

/// A whole file, but never more than `limit` of one that does not end.
fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("larger than {limit} bytes; is it the right file?"));
    }
    String::from_utf8(bytes).map_err(|_| "cannot be read: it is not UTF-8 text".to_owned())
}

/// Decodes, and on each error notes it, drops the offending value and tries
/// again, so that one pass reports everything.
fn decode(root: Map<String, Value>, problems: &mut Vec<String>) -> Config {
    let mut value = Value::Object(root);
    refuse_lists(&mut value, problems);
    loop {
        let error = match serde_path_to_error::deserialize::<_, Config>(value.clone()) {
            Ok(config) => return config,
            Err(error) => error,
        };
        let path: Vec<String> = error.path().iter().map(ToString::to_string).collect();
        if is_null(&value, &path) && remove(&mut value, &path) {
            // A key with nothing behind it, or with comments only, is not set.
            continue;
        }
        let cause = error.inner().to_string();
        let said = format!("{}{}", without_value(&cause), suggest::meant(&cause));
        let shown = if path.is_empty() {
            "configuration".to_owned()
        } else {
            path.join(".")
        };
        problems.push(format!("{shown}: {said}"));
        // An item of a list takes the whole list with it.
        let whole = path.iter().position(|part| part.starts_with('['));
        let path = &path[..whole.unwrap_or(path.len())];
        if !(remove(&mut value, path) || remove_unknown(&mut value, path, &cause)) {
            return Config::default();
        }
    }
}

/// serde also reads a section from a list of its values, in the order of the
/// fields; nobody writes that on purpose.
fn refuse_lists(root: &mut Value, problems: &mut Vec<String>) {
    for section in SECTIONS {
        let pointer = format!("/{}", section.replace('.', "/"));
        if let Some(value) = root.pointer_mut(&pointer).filter(|value| value.is_array()) {
            problems.push(format!(
                "{section}: must be a mapping of keys to values, not a list"
            ));
            *value = Value::Null;
        }
    }
}

/// serde's text without the value it quotes, which may be a secret in the wrong
/// place.
fn without_value(cause: &str) -> String {
    match cause.rsplit_once(", expected ") {
        Some((found, expected))
            if found.starts_with("invalid ") || found.starts_with("unknown variant") =>
        {
            let class = found.split(['"', '`']).next().unwrap_or_default();
            format!("{}, expected {}", class.trim_end(), in_words(expected))
        }
        _ => cause.to_owned(),
    }
}

/// What serde expects, without the names that types have in Rust.
fn in_words(expected: &str) -> &str {
    match expected {
        "a map" => "a mapping of keys to values",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number of a usual size, not below 0",
        other if other.starts_with("struct ") => "a mapping of keys to values",
        other => other,
    }
}

fn is_null(value: &Value, path: &[String]) -> bool {
    let found = path
        .iter()
        .try_fold(value, |at, part| at.get(part.as_str()));
    !path.is_empty() && found.is_some_and(Value::is_null)
}

fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let mut at = value;
    for part in parents {
        let Some(child) = at.get_mut(part.as_str()) else {
            return false;
        };
        at = child;
    }
    at.as_object_mut()
        .is_some_and(|object| object.remove(last).is_some())
}

/// serde names an unknown key in the text only; the path ends at its parent.
fn remove_unknown(value: &mut Value, path: &[String], cause: &str) -> bool {
    let Some(key) = cause
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split('`').next())
    else {
        return false;
    };
    let mut full = path.to_vec();
    full.push(key.to_owned());
    remove(value, &full)
}

fn tier_limits(config: &mut Config, env: &BTreeMap<String, String>, problems: &mut Vec<String>) {
    let docker = &mut config.backend.docker;
    let limits = [
        ("MEMORY_MB", &mut docker.memory_mb),
        ("CPU_SHARES", &mut docker.cpu_shares),
    ];
    for (what, slots) in limits {
        for (tier, slot) in (2..).zip(slots.iter_mut()) {
            let name = format!("TIER{tier}_{what}");
            match env
                .get(&name)
                .map(|text| text.trim())
                .filter(|text| !text.is_empty())
            {
                None => {}
                Some(text) => match text.parse::<i64>() {
                    Ok(value) if value > 0 => *slot = value,
                    _ => problems.push(format!("{name}: must be a positive whole number")),
                },
            }
        }
    }
}

fn secret_files(config: &mut Config, problems: &mut Vec<String>) {
    let pairs = [
        (
            "auth.admin_token",
            &mut config.auth.admin_token,
            &config.auth.admin_token_file,
        ),
        (
            "secrets.encryption_key",
            &mut config.secrets.encryption_key,
            &config.secrets.encryption_key_file,
        ),
    ];
    for (field, value, file) in pairs {
        let Some(path) = file else { continue };
        if value.is_some() {
            problems.push(format!(
                "{field}: set either {field} or {field}_file, not both"
            ));
            continue;
        }
        match read_text(path, MAX_SECRET_BYTES) {
            Ok(text) => *value = Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(problem) => problems.push(format!("{field}_file: {problem}")),
        }
    }
}

/// A bearer is trimmed before it is compared; a token with a space at its end would
/// let nobody in.
fn trim_admin_token(config: &mut Config) {
    if let Some(token) = &mut config.auth.admin_token
        && token.expose().trim() != token.expose()
    {
        let trimmed = Secret::new(token.expose().trim());
        *token = trimmed;
    }
}

/// Earlier encryption keys come from a file with one a line; empty lines do not
/// count.
fn previous_keys_file(config: &mut Config, problems: &mut Vec<String>) {
    const FIELD: &str = "secrets.previous_encryption_keys";
    let secrets = &mut config.secrets;
    let Some(path) = &secrets.previous_encryption_keys_file else {
        return;
    };
    if !secrets.previous_encryption_keys.is_empty() {
        problems.push(format!(
            "{FIELD}: set either {FIELD} or {FIELD}_file, not both"
        ));
        return;
    }
    match read_text(path, MAX_SECRET_BYTES) {
        Ok(text) => {
            let lines = text.lines().map(str::trim);
            let keys = lines.filter(|line| !line.is_empty());
            secrets.previous_encryption_keys = keys.map(Secret::new).collect();
        }
        Err(problem) => problems.push(format!("{FIELD}_file: {problem}")),
    }
}
