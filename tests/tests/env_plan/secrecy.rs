//! No value leaves the server, in whatever form.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use chrono::{TimeDelta, Utc};
use molecule_hooks::tracing::field::{Field, Visit};
use molecule_hooks::tracing::span::{Attributes, Id, Record};
use molecule_hooks::tracing::{self, Event, Metadata, Subscriber};
use molecule_hooks::{HookError, Token};
use molecule_tests::hooks::FnHook;
use molecule_tests::on_both_engines;
use molecule_tests::support::strict;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::shared::{ask, plan, started, store_global, try_out};

/// Everything the server logs, before its redactor sees it.
static LOG: Mutex<String> = Mutex::new(String::new());

struct Recording(AtomicU64);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = writeln!(self.0, "{field}={value:?}");
    }
}

fn note(record: impl FnOnce(&mut Line<'_>)) {
    // Before the lock: the value may log when it is formatted.
    let mut text = String::new();
    record(&mut Line(&mut text));
    LOG.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push_str(&text);
}

impl Subscriber for Recording {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("molecule")
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        note(|line| span.record(line));
        Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn record(&self, _: &Id, values: &Record<'_>) {
        note(|line| values.record(line));
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        note(|line| event.record(line));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn record_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Recording(AtomicU64::new(0))).expect("the first");
    });
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    // Whole groups only: their text is the same in every padding.
    for group in bytes.chunks_exact(3) {
        let number = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for shift in [18, 12, 6, 0] {
            out.push(char::from(DIGITS[(number >> shift) as usize & 63]));
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value and what it may be disguised as.
fn forms(value: &str) -> Vec<String> {
    let digest = Sha256::digest(value.as_bytes());
    let mut forms = vec![
        hex(&digest[..16]),
        base64(&digest),
        hex(&digest[..16]).to_uppercase(),
    ];
    // Short values are part of any text.
    if value.len() >= 6 {
        forms.extend([
            value.to_owned(),
            value.to_lowercase(),
            value.to_uppercase(),
            value.chars().rev().collect(),
            base64(value.as_bytes()),
            hex(value.as_bytes()),
            hex(value.as_bytes()).to_uppercase(),
            value[..value.len() / 2].to_owned(),
        ]);
    }
    forms
}

fn assert_absent(place: &str, text: &str, values: &[String]) {
    for value in values {
        for form in forms(value) {
            assert!(!text.contains(&form), "{value} as {form} in {place}");
        }
    }
}

/// Every text in a JSON value that is no name of a field.
fn texts<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(text) => drop(found.insert(text)),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

/// Fails unless every text is one that a plan is made of: a hash, a time, an id, a
/// name, or one of its words.
fn assert_only_known_texts(plan: &Value) {
    let words = [
        "platform",
        "global_secret",
        "workspace_secret",
        "identity",
        "hook",
        "planting",
        "fake-",
        "added",
        "removed",
        "changed",
        "writer_changed",
        "renewed",
    ];
    let mut found = BTreeSet::new();
    texts(plan, &mut found);
    for text in found {
        let is_name = text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let is_hash = [8, 32].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_id = uuid::Uuid::parse_str(text.trim_start_matches("fake-")).is_ok();
        let is_time = chrono::DateTime::parse_from_rfc3339(text).is_ok();
        assert!(
            is_name || is_hash || is_id || is_time || words.contains(&text),
            "{text:?}"
        );
    }
}

const LOW_ENTROPY: [(&str, &str); 4] = [
    ("FLAG", "true"),
    ("LETTER", "a"),
    ("NOTHING", ""),
    ("PIN", "0000"),
];

on_both_engines! {
    async fn no_value_leaves_in_any_form(engine: Engine) {
        record_logs();
        let run = uuid::Uuid::new_v4().simple().to_string();
        let plant = |what: &str| format!("Plant-{what}-{run}");
        let (hooked, overwritten, token) = (plant("hook"), plant("overwritten"), plant("token"));
        let planted = (hooked.clone(), token.clone());
        let hook = FnHook::new("planting", move |_, env| {
            env.set_secret("FROM_HOOK", planted.0.clone())?;
            env.set("NOT_MARKED", format!("{}-plainly", planted.0))?;
            env.set_token("TOKEN", &Token::new(planted.1.clone(), Utc::now() + TimeDelta::hours(1)))?;
            env.set_secret("OVERWRITTEN", "")?;
            env.remove("TAKEN_AWAY");
            Ok::<_, HookError>(())
        });
        let url = format!("http://plant-platform-{run}.example");
        let own_url = url.clone();
        let app = strict(engine).hook(hook)
            .config(move |config| config.server.platform_url = Some(own_url))
            .start().await;
        let (global, secret, taken) = (plant("global"), plant("workspace"), plant("taken"));
        store_global(&app, engine, "GLOBAL", &global).await;
        let mut secrets = json!({
            "SECRET": secret, "OVERWRITTEN": overwritten, "TAKEN_AWAY": taken, "SAME": global,
        });
        for (name, value) in LOW_ENTROPY {
            secrets[name] = json!(value);
        }
        let (name, role, model) = (plant("name"), plant("role"), plant("model"));
        let body = json!({ "name": name, "role": role, "model": model, "secrets": secrets });
        let mut values = vec![
            hooked, overwritten, token, url, global, secret, taken, name.clone(), role, model,
            format!("Molecule AI {name}"),
        ];
        values.extend(LOW_ENTROPY.iter().map(|(_, value)| (*value).to_owned()));

        let id = started(&app, body).await;
        let dry = plant("payload");
        let log_from = LOG.lock().unwrap_or_else(PoisonError::into_inner).len();
        let before = app.database.dump().await;
        let reply = ask(&app, &id).await;
        assert_eq!(reply.status, 200);
        let tried = try_out(&app, json!({
            "name": "dry", "secrets": { "SECRET": dry, "FLAG": "true" },
        })).await;
        values.push(dry);

        for (place, reply) in [("the plan", &reply), ("the dry run", &tried)] {
            let plan = reply.json();
            assert_only_known_texts(&plan);
            assert_absent(place, &format!("{:?}{}", reply.headers, reply.text), &values);
            assert!(plan["keys"].as_array().is_some_and(|keys| keys.len() > 10));
        }
        assert!(app.database.dump().await == before);
        let stored = app.database.text("SELECT CAST(plan AS TEXT) FROM workspace_boot_plans").await;
        assert!(stored.contains("NOT_MARKED") && stored.contains("TOKEN"), "{stored}");
        assert_absent("the stored plan", &stored, &values);
        assert_only_known_texts(&serde_json::from_str(&stored).expect("JSON"));

        let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        let log = &log[log_from..];
        assert!(log.contains("env-plan"), "the log is looked at");
        assert_absent("the log", log, &values);
        drop(app);
    }

    async fn values_with_few_choices_cannot_be_told_from_their_hashes(engine: Engine) {
        let app = strict(engine).start().await;
        let secrets: Value = ["A", "B", "C", "D"].iter().map(|name| ((*name).to_owned(), json!("true"))).collect();
        let one = started(&app, json!({ "name": "one", "secrets": secrets })).await;
        let two = started(&app, json!({ "name": "two", "secrets": secrets })).await;
        let mut hashes = BTreeSet::new();
        for id in [one, two] {
            let plan = plan(&app, &id).await;
            for name in ["A", "B", "C", "D"] {
                hashes.insert(crate::shared::hash(&plan, name));
            }
        }
        assert_eq!(hashes.len(), 8, "no two places agree on `true`");
        let key = app.database.text("SELECT value FROM platform_state WHERE key = 'fingerprint_key'").await;
        assert!(key.starts_with("2:"), "the key is sealed");
    }
}
