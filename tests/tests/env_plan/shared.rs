//! What the tests of this binary share.

use std::sync::{Arc, Mutex};

use molecule_hooks::HookError;
use molecule_tests::hooks::FnHook;
use molecule_tests::support::sql_id;
use molecule_tests::{ADMIN, Engine, Reply, TestApp};
use serde_json::{Value, json};
use uuid::Uuid;

/// Asks for the plan of a workspace.
pub(crate) async fn ask(app: &TestApp, id: &str) -> Reply {
    let path = format!("/admin/workspaces/{id}/env-plan");
    app.get(&path).bearer(ADMIN).send().await
}

/// The plan of a workspace.
pub(crate) async fn plan(app: &TestApp, id: &str) -> Value {
    let reply = ask(app, id).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// Asks for the plan of a payload.
pub(crate) async fn try_out(app: &TestApp, body: Value) -> Reply {
    app.post("/admin/env-plan", body).bearer(ADMIN).send().await
}

/// One variable of a plan.
#[track_caller]
pub(crate) fn key<'a>(plan: &'a Value, name: &str) -> &'a Value {
    find(plan, name).unwrap_or_else(|| panic!("{name} is not in {plan:#}"))
}

/// One variable of a plan, if it is there.
pub(crate) fn find<'a>(plan: &'a Value, name: &str) -> Option<&'a Value> {
    let keys = plan["keys"].as_array().expect("keys");
    keys.iter().find(|key| key["key"] == name)
}

/// Who wrote a variable, as short words: `global_secret`, `hook:name`, `-hook:name`
/// for a removal.
#[track_caller]
pub(crate) fn writers(plan: &Value, name: &str) -> Vec<String> {
    let chain = key(plan, name)["writers"].as_array().expect("writers");
    chain.iter().map(word).collect()
}

/// Who won, as [`writers`] says it.
#[track_caller]
pub(crate) fn winner(plan: &Value, name: &str) -> String {
    word(&key(plan, name)["won_by"])
}

fn word(writer: &Value) -> String {
    let sign = match writer["removed"].as_bool() {
        Some(true) => "-",
        _ => "",
    };
    let source = writer["source"].as_str().expect("a source");
    match writer["hook"].as_str() {
        Some(hook) => format!("{sign}{source}:{hook}"),
        None => format!("{sign}{source}"),
    }
}

/// The hash of a variable.
#[track_caller]
pub(crate) fn hash(plan: &Value, name: &str) -> String {
    let hash = key(plan, name)["hash"].as_str().expect("a hash");
    assert!(hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    hash.to_owned()
}

/// The differences from the boot, as `NAME change`.
#[track_caller]
pub(crate) fn changes(plan: &Value) -> Vec<String> {
    let changes = plan["booted"]["changes"].as_array().expect("changes");
    let text = |change: &Value| {
        let part = |name: &str| change[name].as_str().expect("a text").to_owned();
        format!("{} {}", part("key"), part("change"))
    };
    changes.iter().map(text).collect()
}

/// A hook that does what the handle says at the moment.
pub(crate) type Act = Arc<Mutex<Vec<(&'static str, Option<String>)>>>;

/// A hook that sets (or, with `None`, removes) variables that a test may change
/// while the server runs.
pub(crate) fn scripted(
    name: &'static str,
    script: &[(&'static str, Option<&str>)],
) -> (FnHook, Act) {
    let script = script
        .iter()
        .map(|(name, value)| (*name, value.map(str::to_owned)))
        .collect();
    let act: Act = Arc::new(Mutex::new(script));
    let theirs = Arc::clone(&act);
    let hook = FnHook::new(name, move |_, env| {
        for (name, value) in theirs.lock().expect("a script").iter() {
            match value {
                Some(value) => env.set_secret(name, value.clone())?,
                None => drop(env.remove(name)),
            }
        }
        Ok::<_, HookError>(())
    });
    (hook, act)
}

/// Stores a secret of all workspaces as an older server would: not encrypted.
pub(crate) async fn store_global(app: &TestApp, engine: Engine, name: &str, value: &str) {
    let id = sql_id(engine, &Uuid::new_v4().to_string());
    let value = molecule_tests::support::sql_bytes(engine, value.as_bytes());
    let sql = format!(
        "INSERT INTO global_secrets (id, key, encrypted_value, encryption_version, created_at, updated_at)
         VALUES ({id}, '{name}', {value}, 0, '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00')"
    );
    app.database.execute(&sql).await;
}

/// Stores a secret of one workspace past all checks; replaces an earlier one.
pub(crate) async fn store_own(app: &TestApp, engine: Engine, id: &str, name: &str, value: &str) {
    let row = sql_id(engine, &Uuid::new_v4().to_string());
    let workspace = sql_id(engine, id);
    let value = molecule_tests::support::sql_bytes(engine, value.as_bytes());
    let sql = format!(
        "INSERT INTO workspace_secrets (id, workspace_id, key, encrypted_value, encryption_version, created_at, updated_at)
         VALUES ({row}, {workspace}, '{name}', {value}, 0, '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00')
         ON CONFLICT (workspace_id, key) DO UPDATE SET encrypted_value = excluded.encrypted_value, encryption_version = 0"
    );
    app.database.execute(&sql).await;
}

/// The tables that a plan might write to, so that a test can see that it does not.
pub(crate) async fn contents(app: &TestApp) -> String {
    app.database.dump().await
}

/// A workspace whose agent was started.
pub(crate) async fn started(app: &TestApp, body: Value) -> String {
    molecule_tests::support::Agent::start(app, body).await.id
}

/// A template folder below a new directory.
pub(crate) fn templates(entries: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for (name, config) in entries {
        let dir = root.path().join(name);
        std::fs::create_dir(&dir).expect("a folder");
        std::fs::write(dir.join("config.yaml"), config).expect("a file");
    }
    root
}

/// A body with one name.
pub(crate) fn named(name: &str) -> Value {
    json!({ "name": name })
}
