//! What keys and values must look like. No text repeats a value, nor a key that is
//! none: somebody may have put the value in its place.

use molecule_hooks::{EnvError, MAX_ENV_NAME_BYTES, check_env_name};

use super::{MAX_SECRET_BYTES, MODEL_KEY};

/// Longest name of a model, in bytes.
pub(crate) const MAX_MODEL_BYTES: usize = 100;

/// Checks a key that is to become the name of an environment variable.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    match check_env_name(key) {
        Ok(()) if key == "PATH" || key.starts_with("LD_") => Err(format!("{key} may not be set")),
        Ok(()) => Ok(()),
        Err(EnvError::InvalidName(_)) => Err(format!(
            "must be letters, digits and underscores, not begin with a digit, and have at most \
             {MAX_ENV_NAME_BYTES} characters"
        )),
        // The other names are ours, and public.
        Err(error) => Err(error.to_string()),
    }
}

/// Checks a value that is to become the value of an environment variable.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_value(key: &str, value: &str) -> Result<(), String> {
    if value.contains('\0') {
        return Err("must not contain a NUL byte".to_owned());
    }
    if value.len() > MAX_SECRET_BYTES {
        return Err(format!("must have at most {MAX_SECRET_BYTES} bytes"));
    }
    match key {
        MODEL_KEY => check_model(value),
        _ => Ok(()),
    }
}

/// Checks the name of a model, which is shown and written into files.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_model(model: &str) -> Result<(), String> {
    if model.len() > MAX_MODEL_BYTES {
        return Err(format!("must have at most {MAX_MODEL_BYTES} bytes"));
    }
    match model.chars().any(char::is_control) {
        true => Err("must not contain control characters".to_owned()),
        false => Ok(()),
    }
}

/// Checks one entry of a map of secrets.
///
/// # Errors
/// One sentence, naming the key where it is one.
pub(crate) fn check_secret(key: &str, value: &str) -> Result<(), String> {
    check_key(key).map_err(|problem| format!("secrets: a key is refused: {problem}"))?;
    check_value(key, value).map_err(|problem| format!("secrets: the value of {key} {problem}"))
}

#[cfg(test)]
mod tests {
    use molecule_hooks::RESERVED_ENV_NAMES;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_platform_keeps_its_own_names() {
        let more = ["PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_"];
        for key in RESERVED_ENV_NAMES.iter().chain(&more) {
            let problem = check_key(key).unwrap_err();
            assert!(problem.contains(key), "{problem}");
        }
        for key in ["A", "_", "PATH_TO", "path", "LDAP_URL", &"x".repeat(128)] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
    }

    #[test]
    fn models_are_shorter_than_other_values() {
        let model = "x".repeat(MAX_MODEL_BYTES + 1);
        assert!(check_value(MODEL_KEY, &model).is_err());
        assert!(check_value("MODEL", &model).is_ok());
        assert!(check_value(MODEL_KEY, "a\nb").is_err());
    }

    proptest! {
        #[test]
        fn a_refusal_repeats_neither_key_nor_value(
            key in "[ -~]{0,200}[^A-Za-z0-9_][ -~]{8,60}",
            value in "\\PC{12,40}",
        ) {
            let problem = check_secret(&key, &value).unwrap_err();
            prop_assert!(!problem.contains(&key));
            let problem = check_secret("KEY", &format!("{value}\0")).unwrap_err();
            prop_assert!(!problem.contains(&value));
        }

        #[test]
        fn an_accepted_key_is_a_variable_name(key in ".{0,140}") {
            if check_key(&key).is_ok() {
                let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
                prop_assert!(key.chars().all(ok) && !key.starts_with(|c: char| c.is_ascii_digit()));
                prop_assert!((1..=128).contains(&key.len()));
            }
        }
    }
}
