//! A change of several rows meets somebody who locks them in another order, as the
//! heartbeats of a batch do.

use std::time::Duration;

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::{ADMIN, Engine, TestApp, eventually};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{Agent, strict};
use crate::tools::{act, named, status};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// A transaction of its own that takes rows one by one and never gives up first.
struct Stubborn(PgConnection);

impl Stubborn {
    async fn begin(app: &TestApp) -> Self {
        let mut connection = PgConnection::connect(app.database.url())
            .await
            .expect("a connection");
        for sql in ["SET deadlock_timeout = '60s'", "BEGIN"] {
            connection.execute(sql).await.expect("a statement");
        }
        Self(connection)
    }

    async fn takes(&mut self, id: &str) {
        let sql = format!("UPDATE workspaces SET updated_at = updated_at WHERE id = '{id}'");
        let taken = self.0.execute(sqlx::AssertSqlSafe(sql)).await;
        taken.expect("the row, in the end");
    }

    async fn ends(mut self) {
        self.0.execute("COMMIT").await.expect("a commit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_and_a_delete_begin_again_when_the_database_gives_them_up() {
    if !postgres_is_wanted() {
        return;
    }
    let app = strict(Engine::Postgres).start().await;
    for change in ["pause", "delete"] {
        // Given somebody who has the child and will want its parent
        let lead = Agent::online(&app, named(change)).await;
        let body = json!({ "name": format!("{change}d"), "parent_id": lead.id });
        let dev = Agent::online(&app, body).await;
        let mut other = Stubborn::begin(&app).await;
        other.takes(&dev.id).await;

        // When the parent is changed, and with it the child
        let changing = async {
            match change {
                "pause" => act(&app, &lead.id, "pause").await,
                _ => {
                    let path = format!("/workspaces/{}?confirm=true", lead.id);
                    app.delete(&path).bearer(ADMIN).send().await
                }
            }
        };
        let meeting = async {
            eventually("the change waits for the child", || async {
                app.database.count(WAITING).await > 0
            })
            .await;
            tokio::time::timeout(Duration::from_secs(30), other.takes(&lead.id))
                .await
                .expect("the change gives way");
            other.ends().await;
        };
        let (reply, ()) = tokio::join!(changing, meeting);

        // Then its client hears nothing of that
        assert_eq!(reply.status, 200, "{change}: {}", reply.text);
        let expected = if change == "pause" {
            "paused"
        } else {
            "removed"
        };
        for agent in [&lead, &dev] {
            assert_eq!(status(&app, &agent.id).await, expected);
        }
    }
    app.shutdown().await;
}
