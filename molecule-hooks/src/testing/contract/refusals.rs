use std::sync::{Arc, Mutex, PoisonError};

use crate::env_map::EnvError;

use super::findings::Findings;

/// What an environment refused to take, whether or not the hook passed the error on.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Vec<EnvError>>>);

impl Refusals {
    pub(crate) fn note(&self, error: EnvError) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.push(error);
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        findings.note("env-key-invalid", Ok(()));
        findings.note("env-value-invalid", Ok(()));
        for error in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let id = match error {
                EnvError::InvalidName(_) | EnvError::Reserved(_) => "env-key-invalid",
                EnvError::NulByte(_) | EnvError::TooLong(_) => "env-value-invalid",
            };
            findings.note(id, Err(error.to_string()));
        }
    }
}
