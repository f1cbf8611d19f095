use crate::env_map::EnvMap;
use crate::error::HookError;
use crate::secret::REDACTED;

use super::findings::Findings;

/// Values shorter than this turn up by chance.
const SHORTEST: usize = 6;

/// What a planted secret looks like. It has the shape of no known credential, so
/// that the masking of the SDK cannot hide a leak.
pub(super) const PLANTED: &str = "planted7f3a91c2secret";

/// Every text that must not be readable anywhere.
pub(super) struct Secrets {
    texts: Vec<String>,
}

impl Secrets {
    pub(super) fn new(texts: &[String]) -> Self {
        let mut secrets = Self { texts: Vec::new() };
        secrets.add(PLANTED);
        texts.iter().for_each(|text| secrets.add(text));
        secrets
    }

    pub(super) fn add(&mut self, text: &str) {
        let text = text.trim();
        if text.len() >= SHORTEST && !self.texts.iter().any(|known| known == text) {
            self.texts.push(text.to_owned());
        }
    }

    /// Adds what a hook wrote as secret.
    pub(super) fn add_written(&mut self, env: &EnvMap) {
        env.iter()
            .filter(|(name, _)| env.is_secret(name))
            .for_each(|(_, value)| self.add(value));
    }

    /// Checks that what a hook changed since `before` shows no secret.
    pub(super) fn check_visible(&self, before: &EnvMap, after: &EnvMap, findings: &mut Findings) {
        let changed = before.changed_names(after).into_iter();
        let shows = |name: &&str| {
            let value = after.get(name).unwrap_or_default();
            !after.is_secret(name) && self.found_in(value)
        };
        let visible: Vec<&str> = changed.filter(shows).collect();
        findings.require("secret-visible", visible.is_empty(), || {
            format!("{visible:?} hold a secret; write them with EnvMap::set_secret or set_token")
        });
    }

    fn found_in(&self, text: &str) -> bool {
        self.texts.iter().any(|secret| text.contains(secret))
    }

    /// An error as it may stand in the output of a test.
    pub(super) fn show(&self, error: &HookError) -> String {
        self.hide(error.chain())
    }

    /// The same for a text.
    pub(super) fn hide(&self, text: String) -> String {
        let texts = self.texts.iter();
        texts.fold(text, |text, secret| text.replace(secret, REDACTED))
    }

    pub(super) fn check_error(&self, error: &HookError, findings: &mut Findings) {
        let texts = [
            ("Display", error.to_string()),
            ("Debug", format!("{error:?}")),
            ("chain()", error.chain()),
        ];
        self.check_texts(&texts, &format!("{:?}", error.kind()), findings);
    }

    /// Checks the forms of one error.
    pub(super) fn check_texts(
        &self,
        texts: &[(&str, String)],
        kind: &str,
        findings: &mut Findings,
    ) {
        let leak = texts.iter().find(|(_, text)| self.found_in(text));
        // The text itself stays out of the message: it holds a secret.
        findings.note(
            "secret-in-error",
            match leak {
                Some((form, _)) => Err(format!(
                    "a secret can be read in the {form} of a {kind} error; name the key or variable instead of its value"
                )),
                None => Ok(()),
            },
        );
    }

    pub(super) fn check_log(&self, log: &str, findings: &mut Findings) {
        findings.require("secret-in-log", !self.found_in(log), || {
            let start = log.lines().find(|line| self.found_in(line)).map(|line| {
                let end = self
                    .texts
                    .iter()
                    .filter_map(|s| line.find(s.as_str()))
                    .min();
                &line[..end.unwrap_or_default()]
            });
            format!(
                "a secret can be read in the log, after {:?}",
                start.unwrap_or_default()
            )
        });
    }
}
