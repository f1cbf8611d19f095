use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::closest::did_you_mean;
use crate::error::HookError;
use crate::secret::REDACTED;

/// The configuration of one hook: a struct that serde can read, strictly.
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields)]` and describe each
/// field once in [`FIELDS`](HookConfig::FIELDS): the server prints them in
/// `config example`, and fills those with an [`env`](ConfigField::env) name from
/// the process environment. Keys not listed are refused before decoding.
///
/// ```
/// use molecule_hooks::{ConfigField, HookConfig};
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Proxy {
///     url: String,
/// }
///
/// impl HookConfig for Proxy {
///     const FIELDS: &'static [ConfigField] =
///         &[ConfigField::new("url", "URL of the proxy").required().example("http://proxy:3128")];
///
///     fn validate(&self) -> Vec<String> {
///         match self.url.starts_with("http") {
///             true => vec![],
///             false => vec!["url must start with http:// or https://".into()],
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the configuration of a hook",
    label = "needs `serde::Deserialize` and `molecule_hooks::HookConfig`",
    note = "a hook without settings uses `config: molecule_hooks::NoConfig`"
)]
pub trait HookConfig: DeserializeOwned {
    /// Every key the section may have.
    const FIELDS: &'static [ConfigField];

    /// Rules beyond types: one sentence per problem, naming the field. Pure; no
    /// I/O.
    fn validate(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One key of a hook's configuration section.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConfigField {
    /// The key.
    pub name: &'static str,
    /// One line for `config example`.
    pub description: &'static str,
    /// True when the hook does not work without it.
    pub required: bool,
    /// True when the value must not be shown. The key then also exists as
    /// `<name>_file`, the path of a file that holds the value.
    pub secret: bool,
    /// Process environment variable that sets it; wins over the file.
    pub env: Option<&'static str>,
    /// A value as it would stand in YAML.
    pub example: Option<&'static str>,
}

impl ConfigField {
    /// An optional, visible field.
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            description,
            required: false,
            secret: false,
            env: None,
            example: None,
        }
    }

    /// Marks it as required.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Marks its value as secret and adds the `_file` twin.
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Names the process environment variable that sets it.
    pub const fn env(mut self, name: &'static str) -> Self {
        self.env = Some(name);
        self
    }

    /// Gives an example value, written as in YAML.
    pub const fn example(mut self, value: &'static str) -> Self {
        self.example = Some(value);
        self
    }
}

/// The configuration of a hook that has none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl HookConfig for NoConfig {
    const FIELDS: &'static [ConfigField] = &[];
}

/// What a build function gets besides its configuration.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BuildContext {
    /// The clock to ask for the time.
    pub clock: Clock,
}

/// One hook's section as the operator wrote it, with the environment merged in,
/// before it is decoded. `Debug` shows keys only.
#[derive(Clone, Default)]
pub struct RawConfig {
    values: Map<String, Value>,
    from_env: BTreeSet<String>,
}

impl RawConfig {
    /// A section from a JSON object; `null` means empty.
    ///
    /// # Errors
    /// A config error when `value` is neither an object nor null.
    pub fn new(value: Value) -> Result<Self, HookError> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(values) => Ok(Self {
                values,
                ..Self::default()
            }),
            _ => Err(HookError::config(
                "the section must be a mapping of keys to values",
            )),
        }
    }

    /// Overlays environment variables and reads `_file` twins. The environment
    /// wins over the section, whichever of the two twins either one names.
    pub(crate) fn overlay(
        mut self,
        fields: &[ConfigField],
        env: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        for field in fields {
            if let Err(problem) = self.overlay_field(field, env) {
                problems.push(problem);
            }
        }
        match problems.is_empty() {
            true => Ok(self),
            false => Err(problems),
        }
    }

    fn overlay_field(
        &mut self,
        field: &ConfigField,
        env: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let set = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
        let file_key = format!("{}_file", field.name);
        let value_from_env = field.env.and_then(set);
        let mut path = None;
        if field.secret {
            path = field.env.and_then(|name| set(&format!("{name}_FILE")));
            if let (Some(name), Some(_), Some(_)) = (field.env, &value_from_env, &path) {
                return Err(format!("set either {name} or {name}_FILE, not both"));
            }
        }
        if value_from_env.is_some() || path.is_some() {
            self.values.remove(field.name);
            // A visible field has no twin: such a key is a mistake to report.
            if field.secret {
                self.values.remove(&file_key);
            }
        }
        if let Some(value) = value_from_env {
            self.values
                .insert(field.name.to_owned(), Value::String(value));
            self.from_env.insert(field.name.to_owned());
        }
        if field.secret && path.is_none() {
            path = match self.values.remove(&file_key) {
                None | Some(Value::Null) => None,
                Some(Value::String(path)) => Some(path),
                Some(_) => return Err(format!("{file_key} must be the path of a file")),
            };
            if path.is_some() && self.values.contains_key(field.name) {
                return Err(format!("set either {} or {file_key}, not both", field.name));
            }
        }
        if let Some(path) = path {
            let text = read_secret_file(&path).map_err(|e| format!("{file_key}: {path:?} {e}"))?;
            self.values
                .insert(field.name.to_owned(), Value::String(text));
        }
        Ok(())
    }

    /// Decodes and validates the section.
    ///
    /// A value that came from the environment is text; where the field wants a
    /// number or a boolean, text that reads as one is accepted.
    ///
    /// # Errors
    /// A config error that lists every problem found, each naming its key. The
    /// text never holds a value of a secret field.
    pub fn decode<C: HookConfig>(&self) -> Result<C, HookError> {
        let (mut known, unknown): (Map<String, Value>, Map<String, Value>) = self
            .values
            .clone()
            .into_iter()
            .partition(|(key, _)| C::FIELDS.iter().any(|field| field.name == key.as_str()));
        let mut problems: Vec<String> = unknown
            .keys()
            .map(|key| unknown_key(key, C::FIELDS))
            .collect();
        match self.decode_values::<C>(&mut known) {
            Ok(config) => {
                problems.extend(config.validate());
                if problems.is_empty() {
                    return Ok(config);
                }
            }
            Err(problem) => problems.push(problem),
        }
        let text = self.mask_secrets(&problems.join("; "), C::FIELDS);
        Err(HookError::config(text))
    }

    fn decode_values<C: HookConfig>(&self, values: &mut Map<String, Value>) -> Result<C, String> {
        loop {
            let error =
                match serde_path_to_error::deserialize::<_, C>(Value::Object(values.clone())) {
                    Ok(config) => return Ok(config),
                    Err(error) => error,
                };
            let path = error.path().to_string();
            // Each round turns one text into something else, so this ends.
            if self.from_env.contains(&path)
                && let Some(Value::String(text)) = values.get(&path)
                && let Ok(scalar @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(text)
            {
                values.insert(path, scalar);
                continue;
            }
            let secret = C::FIELDS
                .iter()
                .any(|f| f.secret && path.starts_with(f.name));
            return Err(match (path.as_str(), secret) {
                (".", _) => error.inner().to_string(),
                (path, true) => format!("{path}: wrong type or form"),
                (path, false) => format!("{path}: {}", error.inner()),
            });
        }
    }

    /// `text` without any value that a secret field has here, as it is or quoted
    /// with its escapes. Values shorter than four bytes are no secrets and would
    /// only garble the text.
    pub(crate) fn mask_secrets(&self, text: &str, fields: &[ConfigField]) -> String {
        let values = self.secret_values(fields).filter(|value| value.len() >= 4);
        let mut forms: Vec<String> = values
            .flat_map(|value| [value.to_owned(), value.escape_debug().to_string()])
            .collect();
        // The longest first: of one that begins like another nothing must remain.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.iter().fold(text.to_owned(), |text, form| {
            text.replace(form.as_str(), REDACTED)
        })
    }

    /// The texts that the secret ones of `fields` have here, wherever they came from.
    pub(crate) fn secret_values<'a>(
        &'a self,
        fields: &'a [ConfigField],
    ) -> impl Iterator<Item = &'a str> {
        let secret = fields.iter().filter(|field| field.secret);
        let values = secret.filter_map(|field| self.values.get(field.name));
        values.flat_map(texts)
    }

    /// True when the operator set nothing at all, neither in the file nor in the
    /// environment.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Every text in a value, which may be a list or a mapping.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(values) => values.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// The longest file a `_file` key may point at: keys and tokens are far shorter.
const MAX_SECRET_FILE_BYTES: u64 = 1024 * 1024;

fn read_secret_file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| {
            file.take(MAX_SECRET_FILE_BYTES + 1)
                .read_to_string(&mut text)
        })
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_SECRET_FILE_BYTES {
        return Err(format!("is longer than {MAX_SECRET_FILE_BYTES} bytes"));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    match text.is_empty() {
        true => Err("is empty".to_owned()),
        false => Ok(text),
    }
}

fn unknown_key(key: &str, fields: &[ConfigField]) -> String {
    let known: Vec<String> = fields
        .iter()
        .map(|field| match field.secret {
            true => format!("{0} (or {0}_file)", field.name),
            false => field.name.to_owned(),
        })
        .collect();
    match known.is_empty() {
        true => format!("unknown key {key:?}; this hook has no settings"),
        false => {
            let meant = did_you_mean(key, fields.iter().map(|field| field.name));
            format!(
                "unknown key {key:?}; known keys: {}{meant}",
                known.join(", ")
            )
        }
    }
}

impl fmt::Debug for RawConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Everything [`Registry::from_linked`](crate::Registry::from_linked) needs: the
/// `hooks` section of `molecule.yaml` and the process environment. Values are
/// absent from `Debug`.
#[derive(Clone)]
#[non_exhaustive]
pub struct HooksConfig {
    /// Names in the order they shall run; hooks not listed follow by name.
    pub order: Vec<String>,
    /// One section per hook, by name.
    pub sections: BTreeMap<String, Value>,
    /// The process environment, read once at start-up.
    pub env: BTreeMap<String, String>,
    /// Handed to every build function.
    pub context: BuildContext,
    /// How long one build function may take; a minute by default.
    pub build_timeout: Duration,
    /// Hook crates among the dependencies of this binary, linked or not, as pairs of
    /// name and version. Only messages use it; a server knows it from its build manifest.
    pub hook_crates: Vec<(String, String)>,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self {
            order: Vec::new(),
            sections: BTreeMap::new(),
            env: BTreeMap::new(),
            context: BuildContext::default(),
            build_timeout: Duration::from_secs(60),
            hook_crates: Vec::new(),
        }
    }
}

impl HooksConfig {
    /// No order, no sections, no environment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the section of one hook.
    pub fn with_section(mut self, hook: &str, section: Value) -> Self {
        self.sections.insert(hook.to_owned(), section);
        self
    }

    /// Adds one process environment variable.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

impl fmt::Debug for HooksConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HooksConfig")
            .field("order", &self.order)
            .field("sections", &self.sections.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
