use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value, json};

use crate::config::{BuildContext, ConfigField, RawConfig};
use crate::error::{HookError, HookErrorKind};

use super::fields::{check_description, check_fields, yaml_scalar};
use super::findings::Findings;
use super::hostile::hostile_values;
use super::io::Trap;
use super::linked::Linked;
use super::secrets::Secrets;

/// What the author of a hook crate gave for its construction.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) section: &'a Value,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) context: &'a BuildContext,
}

/// Checks everything that happens before the first call, and builds what was linked
/// under a name.
pub(super) fn check<L: Linked>(
    linked: Vec<L>,
    name: &str,
    given: Given<'_>,
    secrets: &mut Secrets,
    findings: &mut Findings,
) -> Option<(L, L::Built)> {
    let kind = L::KIND;
    let mut linked = linked.into_iter().filter(|one| one.name() == name);
    let first = linked.next();
    findings.require("not-linked", first.is_some(), || {
        format!("no linked {kind} is called {name:?}; add `use its_crate as _;` to the test")
    });
    findings.require("linked-twice", linked.next().is_none(), || {
        format!("two linked {kind}s are called {name:?}")
    });
    let linked = first?;
    check_description(linked, findings);
    check_fields(linked, findings);

    let section = Section { given, linked };
    let built = section.check_valid(secrets, findings);
    section.check_unknown_key(secrets, findings);
    section.check_empty(secrets, findings);
    section.check_examples(secrets, findings);
    section.check_required(secrets, findings);
    section.check_hostile(secrets, findings);
    section.check_io(findings);
    Some((linked, built?))
}

/// How an attempt to build it ended.
enum Attempt<T> {
    Built(T),
    Skipped,
    Refused(HookError),
    Panicked,
}

struct Section<'a, L> {
    given: Given<'a>,
    linked: L,
}

impl<L: Linked> Section<'_, L> {
    fn check_valid(&self, secrets: &mut Secrets, findings: &mut Findings) -> Option<L::Built> {
        let values = self.given.section.clone();
        if let Ok(raw) = self.raw(values.clone(), None) {
            let texts = raw.secret_values(self.linked.fields());
            texts.for_each(|text| secrets.add(text));
        }
        let attempt = self.attempt(values, None, secrets, findings);
        let refused = match &attempt {
            Attempt::Refused(error) => Some(secrets.show(error)),
            _ => None,
        };
        findings.require("valid-section-refused", refused.is_none(), || {
            refused.unwrap_or_default()
        });
        let skipped = matches!(attempt, Attempt::Skipped);
        findings.require("valid-section-skipped", !skipped, || {
            "give the contract a section that builds the hook".to_owned()
        });
        match attempt {
            Attempt::Built(built) => Some(built),
            _ => None,
        }
    }

    fn check_unknown_key(&self, secrets: &mut Secrets, findings: &mut Findings) {
        let values = self.with("a-key-no-hook-has", json!(true));
        let attempt = self.attempt(values, None, secrets, findings);
        let accepted = matches!(attempt, Attempt::Built(_) | Attempt::Skipped);
        findings.require("unknown-key-accepted", !accepted, || {
            "a section with an unknown key builds".to_owned()
        });
    }

    fn check_empty(&self, secrets: &mut Secrets, findings: &mut Findings) {
        let raw = RawConfig::default();
        let kind = match self.build(&raw, secrets, findings) {
            Attempt::Refused(error) => Some(error.kind()),
            _ => None,
        };
        let good = matches!(kind, None | Some(HookErrorKind::Config));
        findings.require("empty-section", good, || {
            "the empty section must build, be skipped (Ok(None)) or be a HookError::config"
                .to_owned()
        });
    }

    /// Each example on top of the valid section, and, for fields that exclude
    /// each other, on top of the required ones only. One of the two must do.
    fn check_examples(&self, secrets: &mut Secrets, findings: &mut Findings) {
        for field in self.linked.fields() {
            let Some(example) = field.example.and_then(yaml_scalar) else {
                continue;
            };
            let full = self.with(field.name, example.clone());
            let mut least = self.values();
            least.retain(|key, _| {
                let required = |f: &&ConfigField| f.required && f.name == key;
                self.linked.fields().iter().any(|f| required(&f))
            });
            least.insert(field.name.to_owned(), example);
            let refusals: Vec<HookError> = [full, Value::Object(least)]
                .into_iter()
                .map(|values| self.raw(values, Some(field)))
                .filter_map(|raw| {
                    let raw = match raw {
                        Ok(raw) => raw,
                        Err(error) => return Some(error),
                    };
                    catch_unwind(AssertUnwindSafe(|| self.linked.check(&raw)))
                        .unwrap_or(Ok(()))
                        .err()
                })
                .collect();
            findings.require("example-refused", refusals.len() < 2, || {
                format!(
                    "the example of {:?}: {}",
                    field.name,
                    secrets.show(&refusals[0])
                )
            });
        }
    }

    fn check_required(&self, secrets: &mut Secrets, findings: &mut Findings) {
        for field in self.linked.fields().iter().filter(|f| f.required) {
            let mut values = self.values();
            values.remove(field.name);
            values.remove(&format!("{}_file", field.name));
            let attempt = self.attempt(Value::Object(values), Some(field), secrets, findings);
            let built = matches!(attempt, Attempt::Built(_));
            findings.require("required-not-required", !built, || {
                format!(
                    "it builds without {:?}, which FIELDS marks as required",
                    field.name
                )
            });
        }
    }

    /// Odd values for every field. Whether they are refused is the hook's own
    /// business; panics and leaks are noted on the way.
    fn check_hostile(&self, secrets: &mut Secrets, findings: &mut Findings) {
        for field in self.linked.fields() {
            for value in hostile_values(field.secret) {
                let values = self.with(field.name, value);
                self.attempt(values, Some(field), secrets, findings);
            }
        }
    }

    /// Looks at the valid section, and at sections whose keys lead into a trap.
    fn check_io(&self, findings: &mut Findings) {
        let trap = Trap::new();
        let mut sections = vec![(None, self.given.section.clone())];
        for field in self.linked.fields() {
            let leading = trap.texts().into_iter();
            sections.extend(leading.map(|text| (Some(field), self.with(field.name, json!(text)))));
        }
        findings.note("config-does-io", Ok(()));
        for (field, values) in sections {
            let Ok(raw) = self.raw(values, field) else {
                continue;
            };
            let did = trap.spring(|| drop(self.linked.check(&raw)));
            findings.require("config-does-io", did.is_none(), || {
                let key = field.map_or("the valid section", |field| field.name);
                let did = did.unwrap_or_default();
                format!(
                    "it {did} while it decodes and validates ({key}); leave that to the build \
                     function"
                )
            });
        }
    }

    /// Builds from `values`, with the environment the contract was given except
    /// for what would set `without`.
    fn attempt(
        &self,
        values: Value,
        without: Option<&ConfigField>,
        secrets: &mut Secrets,
        findings: &mut Findings,
    ) -> Attempt<L::Built> {
        match self.raw(values, without) {
            Ok(raw) => self.build(&raw, secrets, findings),
            Err(error) => Attempt::Refused(error),
        }
    }

    fn raw(&self, values: Value, without: Option<&ConfigField>) -> Result<RawConfig, HookError> {
        let mut env = self.given.env.clone();
        if let Some(name) = without.and_then(|field| field.env) {
            env.remove(name);
            env.remove(&format!("{name}_FILE"));
        }
        RawConfig::new(values)?
            .overlay(self.linked.fields(), &env)
            .map_err(|problems| HookError::config(problems.join("; ")))
    }

    fn build(
        &self,
        raw: &RawConfig,
        secrets: &mut Secrets,
        findings: &mut Findings,
    ) -> Attempt<L::Built> {
        let context = self.given.context;
        let built = catch_unwind(AssertUnwindSafe(|| {
            // Both on purpose: a host may check without building.
            let checked = self.linked.check(raw);
            (checked, self.linked.build(raw, context))
        }));
        findings.require("config-panics", built.is_ok(), || {
            format!("a section with the keys {raw:?} makes it panic")
        });
        match built {
            Ok((checked, built)) => {
                if let Err(error) = &checked {
                    secrets.check_error(error, findings);
                }
                match built {
                    Ok(Some(built)) => Attempt::Built(built),
                    Ok(None) => Attempt::Skipped,
                    Err(error) => {
                        secrets.check_error(&error, findings);
                        Attempt::Refused(error)
                    }
                }
            }
            Err(_) => Attempt::Panicked,
        }
    }

    fn values(&self) -> Map<String, Value> {
        self.given.section.as_object().cloned().unwrap_or_default()
    }

    fn with(&self, key: &str, value: Value) -> Value {
        let mut values = self.values();
        // Otherwise the twin would make this a conflict.
        values.remove(&format!("{key}_file"));
        values.insert(key.to_owned(), value);
        Value::Object(values)
    }
}
