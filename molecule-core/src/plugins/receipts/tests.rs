//! The table of states.

use chrono::TimeDelta;

use super::*;

fn wanted() -> Wanted {
    Wanted {
        source: "local://a".to_owned(),
        tracked_ref: "none".to_owned(),
        update_mode: "notify".to_owned(),
        sha: None,
        tree_sha256: Some("new".to_owned()),
    }
}

fn there(digest: Option<&str>) -> Evidence {
    Evidence::There(DeliveredTree {
        sha: None,
        tree_sha256: digest.map(str::to_owned),
        at: None,
    })
}

fn loaded(digest: Option<&str>, error: Option<&str>) -> Vec<LoadedPlugin> {
    vec![LoadedPlugin {
        name: "a".to_owned(),
        tree_sha256: digest.map(str::to_owned),
        error: error.map(str::to_owned),
        ..LoadedPlugin::default()
    }]
}

#[test]
fn the_table_of_states() {
    let new = || there(Some("new"));
    let none: Option<Vec<LoadedPlugin>> = None;
    let cases = [
        (new(), none.clone(), false, State::Unknown),
        (new(), none.clone(), true, State::Unknown),
        (Evidence::Absent, none.clone(), false, State::NotDelivered),
        (
            Evidence::Absent,
            Some(loaded(Some("new"), None)),
            false,
            State::NotDelivered,
        ),
        (Evidence::None, none.clone(), false, State::Unknown),
        (Evidence::None, Some(vec![]), false, State::Unknown),
        (
            Evidence::None,
            Some(loaded(Some("new"), None)),
            false,
            State::InSync,
        ),
        (
            Evidence::None,
            Some(loaded(Some("new"), Some("x"))),
            false,
            State::Unknown,
        ),
        (
            Evidence::None,
            Some(loaded(None, None)),
            false,
            State::Unknown,
        ),
        (
            there(Some("old")),
            Some(loaded(Some("new"), None)),
            false,
            State::Differs,
        ),
        (new(), Some(vec![]), true, State::PendingRestart),
        (new(), Some(vec![]), false, State::NotLoaded),
        (
            new(),
            Some(loaded(Some("old"), None)),
            true,
            State::PendingRestart,
        ),
        (
            new(),
            Some(loaded(Some("old"), None)),
            false,
            State::NotLoaded,
        ),
        (new(), Some(loaded(Some("NEW"), None)), true, State::InSync),
        (new(), Some(loaded(Some("new"), None)), false, State::InSync),
        (
            new(),
            Some(loaded(Some("new"), Some("x"))),
            false,
            State::LoadFailed,
        ),
        (
            new(),
            Some(loaded(Some("old"), Some("x"))),
            true,
            State::PendingRestart,
        ),
        (new(), Some(loaded(None, None)), false, State::InSync),
        (new(), Some(loaded(None, None)), true, State::PendingRestart),
        (
            new(),
            Some(loaded(None, Some("x"))),
            false,
            State::LoadFailed,
        ),
        (
            there(None),
            Some(loaded(Some("new"), None)),
            false,
            State::InSync,
        ),
    ];
    for (evidence, loaded, restarts, expected) in cases {
        let agent = Agent {
            loaded: loaded.as_deref(),
            restarts,
            started_at: None,
        };
        let what = format!("{evidence:?} {loaded:?} {restarts}");
        let receipt = Receipt::new("a", Some(wanted()), evidence, None, agent);
        assert_eq!(receipt.state, expected, "{what}");
        assert_eq!(State::parse(expected.as_str()), Some(expected));
    }
}

#[test]
fn what_was_delivered_after_the_start_waits_for_a_restart() {
    let now = Utc::now();
    for (delivered_at, started_at, expected) in [
        (
            Some(now),
            Some(now - TimeDelta::seconds(1)),
            State::PendingRestart,
        ),
        (Some(now), None, State::PendingRestart),
        (
            Some(now),
            Some(now + TimeDelta::seconds(1)),
            State::NotLoaded,
        ),
        (None, Some(now), State::NotLoaded),
        (None, None, State::NotLoaded),
    ] {
        let agent = Agent {
            loaded: Some(&[]),
            restarts: false,
            started_at,
        };
        let receipt = Receipt::new("a", Some(wanted()), there(Some("new")), delivered_at, agent);
        assert_eq!(receipt.state, expected, "{delivered_at:?} {started_at:?}");
    }
}

#[test]
fn what_nothing_asks_for_is_untracked() {
    let agent = Agent {
        loaded: None,
        restarts: false,
        started_at: None,
    };
    let receipt = Receipt::new("a", None, there(None), None, agent);
    assert_eq!(receipt.state, State::Untracked);
    assert_eq!(
        Receipt::new("a", None, Evidence::None, None, agent).state,
        State::Unknown
    );
}

#[test]
fn markers_of_other_makes_are_markers() {
    for text in [
        "",
        "{}",
        "x",
        "[]",
        r#"{"sha":5}"#,
        r#"{"version":1,"more":[]}"#,
    ] {
        assert_eq!(
            Marker::parse(text.as_bytes()),
            Some(Marker::default()),
            "{text}"
        );
    }
    let marker = Marker::parse(br#"{"version":1,"sha":null,"tree_sha256":"abc"}"#).unwrap();
    assert_eq!(marker.tree_sha256.as_deref(), Some("abc"));
}
