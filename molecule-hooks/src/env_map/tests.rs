use super::*;

#[test]
fn every_bad_name_is_refused_and_changes_nothing() {
    let mut env = EnvMap::new();
    for name in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\0", &"x".repeat(129)] {
        assert!(
            matches!(env.set(name, "v"), Err(EnvError::InvalidName(_))),
            "{name:?}"
        );
    }
    for name in RESERVED_ENV_NAMES {
        assert_eq!(
            env.set(name, "v"),
            Err(EnvError::Reserved((*name).to_owned()))
        );
    }
    assert_eq!(env.set("A", "a\0b"), Err(EnvError::NulByte("A".into())));
    let long = "x".repeat(MAX_ENV_VALUE_BYTES + 1);
    assert_eq!(env.set("A", long), Err(EnvError::TooLong("A".into())));
    assert!(env.is_empty());
}

#[test]
fn the_last_writer_wins_and_the_history_is_kept() {
    let mut env = EnvMap::new();
    env.set_writer(EnvSource::WorkspaceSecret);
    env.set_secret("TOKEN", "old").unwrap();
    let hook = EnvSource::Hook {
        name: "h".into(),
        version: "1.0.0".into(),
    };
    env.set_writer(hook.clone());
    env.set("TOKEN", "new").unwrap();
    assert_eq!(env.get("TOKEN"), Some("new"));
    assert_eq!(env.provenance("TOKEN"), [EnvSource::WorkspaceSecret, hook]);
    assert!(
        env.is_secret("TOKEN"),
        "overwriting must not make a secret visible"
    );
    assert!(!format!("{env:?}").contains("new"));
}

#[test]
fn a_token_is_a_secret_with_an_end_until_something_else_is_written() {
    let end = DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(1);
    let mut env = EnvMap::new();
    env.set_token("TOKEN", &Token::new("t", end)).unwrap();
    assert_eq!(env.expires_at("TOKEN"), Some(end));
    assert!(env.is_secret("TOKEN"));
    env.set("TOKEN", "for good").unwrap();
    assert_eq!(env.expires_at("TOKEN"), None);
    env.set_secret_until("TOKEN", "t", end).unwrap();
    env.remove("TOKEN");
    assert_eq!(env.expires_at("TOKEN"), None);
}

#[test]
fn a_removal_stays_in_the_history_and_a_variable_of_ones_own_does_not() {
    let hook = |name: &str| EnvSource::Hook {
        name: name.into(),
        version: String::new(),
    };
    let mut env = EnvMap::new();
    env.set("A", "1").unwrap();
    env.set_writer(hook("first"));
    for _ in 0..1000 {
        env.set("SCRATCH", "1").unwrap();
        env.remove("SCRATCH");
        env.remove("A");
        env.set("A", "2").unwrap();
    }
    env.remove("A");
    let gone = [
        EnvStep::set(EnvSource::Platform),
        EnvStep::removed(hook("first")),
    ];
    assert_eq!(env.history("A"), gone);
    assert!(env.history("SCRATCH").is_empty());
    assert_eq!(env.removed_names().collect::<Vec<_>>(), ["A"]);
    assert!(env.provenance("A").is_empty());

    env.set_writer(hook("second"));
    env.set("A", "3").unwrap();
    assert_eq!(env.history("A").len(), 3);
    assert_eq!(env.provenance("A"), [hook("second")]);
    assert_eq!(env.removed_names().count(), 0);
    assert!(env.remove("MISSING").is_none());
    assert!(env.history("MISSING").is_empty());
}
