//! Inputs that a program may trip over.

use serde_json::{Value, json};

use crate::env_map::MAX_ENV_VALUE_BYTES;
use crate::env_mutator::WorkspaceContext;

use super::secrets::PLANTED;

/// Workspaces that are [odd texts](odd_texts) all over.
pub(super) fn odd_workspaces() -> impl Iterator<Item = WorkspaceContext> {
    odd_texts().into_iter().map(|text| WorkspaceContext {
        id: text.clone(),
        name: text.clone(),
        role: Some(text.clone()),
        tier: 255,
        runtime: text.clone(),
        template: Some(text.clone()),
        model: Some(text.clone()),
        parent_id: Some(text),
    })
}

/// Values that a program may trip over, none of them invalid.
pub(super) fn odd_texts() -> Vec<String> {
    [
        "",
        " ",
        "-",
        "--a--B--",
        "x",
        "é",
        "1234567é",
        "\u{202e}\u{1F916}\u{0301}",
        "a\nb\r\n\tc",
        "$(id) `id` ${HOME} '\"\\",
        "{{}} %s %n {0}",
        "-9223372036854775809",
        "https://user:password@example.org:99999/",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["x".repeat(MAX_ENV_VALUE_BYTES)])
    .collect()
}

/// Values for a key of a section. The planted text goes into secret fields only; a
/// message may well repeat the value of a visible one.
pub(super) fn hostile_values(secret: bool) -> Vec<Value> {
    let text = if secret { PLANTED } else { "some text" };
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!(" \t\n"),
        json!("\0"),
        json!("é\u{202e}\u{1F916}"),
        json!("../../.."),
        json!("http://[::1:99999/%zz"),
        json!("x".repeat(100_000)),
        json!(text),
        json!(format!("  https://user:{text}@example.org/{text}  ")),
        json!([]),
        json!([text]),
        json!({}),
        json!({ text: text }),
    ]
}

/// Specs for a source of plugins.
pub(super) fn hostile_specs() -> Vec<String> {
    let texts = [
        "",
        " ",
        ".",
        "..",
        "/",
        "//",
        "../../etc/passwd",
        "#",
        "##",
        "a#",
        "#a",
        "a/b#",
        "a@",
        "@",
        "--help",
        "$(id)",
        "`id`",
        "'",
        "\"",
        "\\",
        "\0",
        "a\nb",
        "%2e%2e",
        "é",
        "\u{202e}",
        "\u{1F916}",
        "a b",
        "http://[::1:99999/%zz",
        "user:password@host/x",
    ];
    let mut specs: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    specs.push("x".repeat(100_000));
    specs.push("a/".repeat(10_000));
    specs
}
