use chrono::TimeDelta;

use super::*;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(secs)
}

fn report(secs: i64, active_tasks: i64) -> Report {
    Report {
        at: at(secs),
        error_rate: 0.0,
        sample_error: String::new(),
        active_tasks,
        uptime_seconds: 0,
        current_task: String::new(),
        monthly_spend: 0,
        idle_since: (active_tasks == 0).then(|| at(secs)),
        was_busy: active_tasks > 0,
    }
}

/// What would be written after these reports.
fn written(reports: impl IntoIterator<Item = Report>) -> Report {
    let live = Live::default();
    let id = Uuid::new_v4();
    for report in reports {
        live.merge(id, report, Overrides::default());
    }
    let mut batch = live.take();
    batch.reports.remove(&id).unwrap()
}

#[test]
fn idleness_begins_with_the_first_report_of_nothing_to_do() {
    /// Reports as second and tasks; since when it is idle; whether it was busy.
    type Case = (&'static [(i64, i64)], Option<i64>, bool);
    let cases: [Case; 6] = [
        (&[(1, 0)], Some(1), false),
        (&[(1, 0), (2, 0), (3, 0)], Some(1), false),
        (&[(1, 3)], None, true),
        (&[(1, 3), (2, 0), (3, 0)], Some(2), true),
        (&[(1, 0), (2, 3), (3, 0)], Some(3), true),
        (&[(1, 0), (2, 3)], None, true),
    ];
    for (reports, idle_since, was_busy) in cases {
        let last = written(reports.iter().map(|(secs, active)| report(*secs, *active)));
        assert_eq!(
            (last.idle_since, last.was_busy),
            (idle_since.map(at), was_busy),
            "{reports:?}"
        );
    }
}

#[test]
fn a_batch_that_was_not_written_is_merged_below_what_came_meanwhile() {
    let live = Live::default();
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let spending = Report {
        monthly_spend: 42,
        ..report(1, 2)
    };
    live.merge(one, spending, Overrides::default());
    live.merge(two, report(1, 0), Overrides::default());
    let failed = live.take();
    live.merge(one, report(2, 0), Overrides::default());
    drop(failed);
    let mut batch = live.take();
    let (first, second) = (
        batch.reports.remove(&one).unwrap(),
        batch.reports.remove(&two).unwrap(),
    );
    assert_eq!(
        (first.at, first.monthly_spend, first.was_busy),
        (at(2), 42, true)
    );
    assert_eq!((first.idle_since, second.at), (Some(at(2)), at(1)));
    assert!(live.take().reports.is_empty());
}

#[test]
fn overrides_are_replaced_cleared_and_forgotten() {
    let live = Live::default();
    let id = Uuid::new_v4();
    let declares = |names: &[(&str, bool)], timeout| {
        live.merge(
            id,
            report(1, 0),
            Overrides::new(names.iter().copied(), timeout),
        );
        let now = live.overrides(id);
        let names: Vec<_> = Capability::ALL
            .into_iter()
            .filter(|c| now.has(*c))
            .map(Capability::as_str)
            .collect();
        (names, now.idle_timeout().map(|time| time.as_secs()))
    };
    assert_eq!(
        declares(
            &[
                ("scheduler", true),
                ("session", true),
                ("retry", false),
                ("flying", true)
            ],
            Some(90)
        ),
        (vec!["scheduler", "session"], Some(90)),
    );
    assert_eq!(
        declares(&[("status_mgmt", true)], Some(0)),
        (vec!["status_mgmt"], None)
    );
    assert_eq!(declares(&[], Some(-5)), (vec![], None));
    assert_eq!(
        declares(&[], Some(i64::MAX)),
        (vec![], Some(30 * 24 * 3600))
    );
    let all: Vec<_> = Capability::ALL.map(|c| (c.as_str(), true)).into();
    assert_eq!(declares(&all, None).0.len(), 7);
    live.restarted(id);
    assert_eq!(live.overrides(id), Overrides::default());
    declares(&all, Some(1));
    live.retain(|known| known == id);
    assert_ne!(live.overrides(id), Overrides::default());
    live.retain(|_| false);
    assert_eq!(live.overrides(id), Overrides::default());
    declares(&all, Some(1));
    live.forget(id);
    assert_eq!(live.overrides(id), Overrides::default());
    assert!(live.take().reports.is_empty());
    assert_eq!(live.overrides(Uuid::new_v4()), Overrides::default());
}

#[test]
fn the_current_task_is_told_from_the_next_without_being_kept() {
    let live = Live::default();
    let id = Uuid::new_v4();
    let does = |task: &str| {
        let report = Report {
            current_task: task.to_owned(),
            ..report(1, 1)
        };
        live.merge(id, report, Overrides::default())
    };
    let long = "x".repeat(8192);
    let seen = ["", "a", "a", "b", &long, &long, ""].map(does);
    assert_eq!(seen, [false, true, false, true, true, false, true]);
    drop(live.take().reports.drain());
}

#[test]
fn a_thousand_workspaces_cost_no_more_than_a_few_dozen_bytes_each() {
    // A hash table is at least 7/16 full.
    let bytes = (size_of::<(Uuid, Known)>() + 1) as f64 * 16.0 / 7.0;
    assert!(bytes < 128.0, "{bytes} bytes");
}
