//! Who is below whom: whatever is asked for, in whatever order and at once, there is
//! no circle.

use std::collections::BTreeMap;
use std::sync::Arc;

use molecule_tests::support::{recorded, strict};
use molecule_tests::{ADMIN, Engine, TestApp, on_both_engines};
use proptest::collection::vec;
use proptest::option;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::update::patch;

const CIRCLE: &str = "parent_id would put the workspace below itself";

async fn workspaces(app: &TestApp, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(app.create(json!({ "name": format!("w{n}") })).await);
    }
    ids
}

/// Parent by id, as the administrator's list shows it.
async fn parents(app: &TestApp) -> BTreeMap<String, Option<String>> {
    let list = app.get("/workspaces").bearer(ADMIN).send().await.json();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let rows = list.as_array().expect("a list");
    let parent = |row: &Value| (text(&row["id"]).expect("an id"), text(&row["parent_id"]));
    rows.iter().map(parent).collect()
}

/// Fails when somebody is its own ancestor, or below somebody who is not there.
#[track_caller]
fn assert_forest(parents: &BTreeMap<String, Option<String>>) {
    for start in parents.keys() {
        let mut at = start;
        for _ in 0..=parents.len() {
            match parents.get(at) {
                Some(Some(above)) => at = above,
                Some(None) => break,
                None => panic!("{at} is not there: {parents:?}"),
            }
        }
        assert!(parents[at].is_none(), "a circle above {start}: {parents:?}");
    }
}

async fn move_below(app: &TestApp, id: &str, parent: &Value) -> u16 {
    let reply = patch(app, id, json!({ "parent_id": parent })).await;
    if reply.status == 409 {
        assert_eq!(reply.error(), CIRCLE);
    }
    reply.status
}

on_both_engines! {
    async fn nobody_gets_below_itself(engine: Engine) {
        let app = strict(engine).start().await;
        let ids = workspaces(&app, 2).await;
        patch(&app, &ids[0], json!({ "parent_id": ids[0] })).await.assert_error(409, CIRCLE);
        assert_eq!(move_below(&app, &ids[1], &json!(ids[0])).await, 200);
        patch(&app, &ids[0], json!({ "parent_id": ids[1] })).await.assert_error(409, CIRCLE);
        // Not even with another change that would be fine.
        let reply = patch(&app, &ids[0], json!({ "parent_id": ids[1], "role": "x" })).await;
        reply.assert_error(409, CIRCLE);
        assert_eq!(app.listed(&ids[0]).await.expect("listed")["role"], Value::Null);
        assert_eq!(recorded(&app, "WORKSPACE_UPDATED").await, 1);
        // The other way round after turning it over.
        assert_eq!(move_below(&app, &ids[1], &json!(null)).await, 200);
        assert_eq!(move_below(&app, &ids[0], &json!(ids[1])).await, 200);
    }

    async fn a_long_chain_is_followed_to_its_end(engine: Engine) {
        let app = strict(engine).start().await;
        let ids = workspaces(&app, 45).await;
        for pair in ids.windows(2) {
            assert_eq!(move_below(&app, &pair[1], &json!(pair[0])).await, 200);
        }
        for lower in [1, 22, 44] {
            assert_eq!(move_below(&app, &ids[0], &json!(ids[lower])).await, 409);
        }
        assert_forest(&parents(&app).await);
    }

    async fn a_circle_made_elsewhere_is_survived(engine: Engine) {
        let app = strict(engine).start().await;
        let ids = workspaces(&app, 3).await;
        assert_eq!(move_below(&app, &ids[1], &json!(ids[0])).await, 200);
        let id = |n: usize| molecule_tests::support::sql_id(engine, &ids[n]);
        let sql = format!("UPDATE workspaces SET parent_id = {} WHERE id = {}", id(1), id(0));
        app.database.execute(&sql).await;
        // Below the circle is no circle of one's own, and the way out is open.
        assert_eq!(move_below(&app, &ids[2], &json!(ids[0])).await, 200);
        assert_eq!(move_below(&app, &ids[0], &json!(null)).await, 200);
        assert_forest(&parents(&app).await);
    }

    async fn two_who_want_to_be_below_each_other_do_not_both_get_it(engine: Engine) {
        let app = strict(engine).start().await;
        let ids = workspaces(&app, 2).await;
        for _ in 0..15 {
            let (one, two) = (json!(ids[0]), json!(ids[1]));
            let (first, second) =
                tokio::join!(move_below(&app, &ids[0], &two), move_below(&app, &ids[1], &one));
            let mut statuses = [first, second];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409]);
            assert_forest(&parents(&app).await);
            for id in &ids {
                assert_eq!(move_below(&app, id, &json!(null)).await, 200);
            }
        }
    }

    async fn two_halves_of_a_ring_are_not_closed_from_both_sides(engine: Engine) {
        // Given two pairs: the moves that join them touch no row in common
        let app = strict(engine).start().await;
        let ids = workspaces(&app, 4).await;
        for _ in 0..15 {
            assert_eq!(move_below(&app, &ids[0], &json!(ids[1])).await, 200);
            assert_eq!(move_below(&app, &ids[2], &json!(ids[3])).await, 200);
            // When both are asked for at once
            let (two, zero) = (json!(ids[2]), json!(ids[0]));
            let (first, second) =
                tokio::join!(move_below(&app, &ids[1], &two), move_below(&app, &ids[3], &zero));
            // Then one is refused
            let mut statuses = [first, second];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409]);
            assert_forest(&parents(&app).await);
            for id in &ids {
                assert_eq!(move_below(&app, id, &json!(null)).await, 200);
            }
        }
    }

    async fn a_crowd_of_moves_at_once_makes_no_circle(engine: Engine) {
        let app = strict(engine).start().await;
        let ids = workspaces(&app, 7).await;
        // Rings of every size in both directions, all at once.
        for round in 1..7 {
            let targets: Vec<(usize, Value)> = (0..ids.len())
                .flat_map(|at| [(at, (at + round) % ids.len()), ((at + round) % ids.len(), at)])
                .map(|(at, to)| (at, json!(ids[to])))
                .collect();
            let moves = targets.iter().map(|(at, to)| move_below(&app, &ids[*at], to));
            for status in futures_util::future::join_all(moves).await {
                assert!(matches!(status, 200 | 409), "{status}");
            }
            assert_forest(&parents(&app).await);
        }
    }

    async fn deletes_and_moves_at_once_leave_nobody_below_a_removed_one(engine: Engine) {
        let app = strict(engine).start().await;
        for round in 0..6 {
            let mut ids = Vec::new();
            for n in 0..4 {
                ids.push(app.create(json!({ "name": format!("r{round} w{n}") })).await);
            }
            assert_eq!(move_below(&app, &ids[1], &json!(ids[0])).await, 200);
            let path = format!("/workspaces/{}?confirm=true", ids[0]);
            let (below, above) = (json!(ids[1]), json!(ids[0]));
            let (deleted, ..) = tokio::join!(
                app.delete(&path).bearer(ADMIN).send(),
                move_below(&app, &ids[2], &below),
                move_below(&app, &ids[3], &above),
                move_below(&app, &ids[1], &Value::Null),
            );
            assert_eq!(deleted.status, 200, "{}", deleted.text);
            assert_forest(&parents(&app).await);
        }
    }
}

/// Replays random moves against a model that allows exactly what makes no circle.
fn random_moves_agree_with_the_model(engine: Engine) {
    const COUNT: usize = 6;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (app, ids) = runtime.block_on(async {
        let app = strict(engine).start().await;
        let ids = workspaces(&app, COUNT).await;
        (Arc::new(app), ids)
    });
    let mut runner = TestRunner::new(Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    });
    let moves = vec((0..COUNT, option::weighted(0.9, 0..COUNT)), 1..25);
    let outcome = runner.run(&moves, |moves| {
        runtime.block_on(async {
            let mut model = [None; COUNT];
            for id in &ids {
                assert_eq!(move_below(&app, id, &Value::Null).await, 200);
            }
            for (at, to) in moves {
                let mut above = to;
                while above.is_some_and(|above| above != at) {
                    above = above.and_then(|above| model[above]);
                }
                let is_circle = above == Some(at);
                let expected = if is_circle { 409 } else { 200 };
                let status = move_below(&app, &ids[at], &json!(to.map(|to| &ids[to]))).await;
                assert_eq!(status, expected, "{at} below {to:?} in {model:?}");
                if !is_circle {
                    model[at] = to;
                }
            }
            let stored = parents(&app).await;
            assert_forest(&stored);
            for (at, above) in model.into_iter().enumerate() {
                assert_eq!(stored[&ids[at]], above.map(|above| ids[above].clone()));
            }
        });
        Ok(())
    });
    outcome.expect("every sequence of moves ends as the model says");
}

#[test]
fn no_sequence_of_moves_makes_a_circle_on_sqlite() {
    random_moves_agree_with_the_model(Engine::Sqlite);
}

#[test]
fn no_sequence_of_moves_makes_a_circle_on_postgres() {
    if molecule_tests::database::postgres_is_wanted() {
        random_moves_agree_with_the_model(Engine::Postgres);
    }
}
