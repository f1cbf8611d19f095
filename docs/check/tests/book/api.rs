//! The API reference, from the committed OpenAPI document. A test of the server keeps
//! that document equal to what the server serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::generated::{self, cell, code};
use crate::repository;

const DOCUMENT: &str = "tests/tests/api/openapi.json";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document() -> Value {
    let text = fs::read_to_string(repository().join(DOCUMENT)).expect("the document can be read");
    serde_json::from_str(&text).expect("the document is JSON")
}

/// An operation with its method and path.
type Operation<'a> = (&'a str, &'a str, &'a Value);

/// Operations by tag, in the order of their paths.
fn by_tag(document: &Value) -> BTreeMap<String, Vec<Operation<'_>>> {
    let mut tags: BTreeMap<String, Vec<Operation<'_>>> = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            let Some(operation) = methods.get(method) else {
                continue;
            };
            let tag = operation["tags"][0].as_str().unwrap_or("other");
            tags.entry(tag.to_owned())
                .or_default()
                .push((method, path, operation));
        }
    }
    tags
}

fn index(tags: &BTreeMap<String, Vec<Operation<'_>>>) -> String {
    let mut text = String::from(
        "# HTTP API\n\n\
         Made from the OpenAPI document that every server serves at `/openapi.json` and prints with \
         `myserver openapi`. Requests and answers are JSON. A credential is sent as `Authorization: Bearer …`; \
         which one opens what is in [Secure](../../operate/secure.md). Every error is an object with `error`, and \
         the texts are in the [error catalogue](../errors.md). Every answer has `x-request-id`, which is in the log \
         too. The objects are in [Objects](objects.md).\n\n\
         | method | path | what it does |\n|---|---|---|\n",
    );
    for (tag, operations) in tags {
        for (method, path, operation) in operations {
            let _ = writeln!(
                text,
                "| {} | [{}]({tag}.md#{}) | {} |",
                method.to_uppercase(),
                code(path),
                anchor(method, path),
                cell(&about(operation))
            );
        }
    }
    text
}

/// The name of the heading `METHOD path`, as mdBook makes it.
fn anchor(method: &str, path: &str) -> String {
    let kept = path
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    format!("{method}-{}", kept.collect::<String>().to_lowercase())
}

/// What an operation is for: its summary, else its name in words.
fn about(operation: &Value) -> String {
    match operation["summary"].as_str() {
        Some(summary) => summary.trim_end_matches('.').to_owned(),
        None => words(operation["operationId"].as_str().unwrap_or_default()),
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn tag_page(tag: &str, operations: &[Operation<'_>]) -> String {
    let mut text = format!("# {tag}\n");
    for (method, path, operation) in operations {
        let _ = write!(
            text,
            "\n## {} `{path}`\n\n{}.\n",
            method.to_uppercase(),
            capital(&about(operation))
        );
        if let Some(description) = operation["description"].as_str() {
            let _ = write!(text, "\n{}\n", paragraph(description));
        }
        let is_public = operation["security"].as_array().is_some_and(|all| {
            all.iter()
                .any(|one| one.as_object().is_some_and(serde_json::Map::is_empty))
        });
        if is_public {
            text.push_str("\nNeeds no credential.\n");
        }
        parameters(&mut text, operation);
        if let Some(body) = operation.get("requestBody") {
            let schema = schema_of(&body["content"]);
            let more = body["description"]
                .as_str()
                .map(|more| format!(" ({more})"))
                .unwrap_or_default();
            let _ = write!(text, "\nBody: {schema}{}.\n", paragraph(&more));
        }
        text.push_str("\n| status | answer |\n|---|---|\n");
        for (status, response) in operation["responses"].as_object().into_iter().flatten() {
            let mut parts = vec![
                response["description"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            ];
            parts.push(schema_of(&response["content"]));
            parts.retain(|part| !part.is_empty());
            let _ = writeln!(text, "| {status} | {} |", cell(&parts.join(": ")));
        }
    }
    text
}

fn parameters(text: &mut String, operation: &Value) {
    let Some(parameters) = operation["parameters"]
        .as_array()
        .filter(|all| !all.is_empty())
    else {
        return;
    };
    text.push_str("\n| parameter | in | what it is |\n|---|---|---|\n");
    for parameter in parameters {
        let required = match (&parameter["required"], parameter["in"].as_str()) {
            (_, Some("path")) | (Value::Bool(false), _) => "",
            _ => " (required)",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {}{required} |",
            code(parameter["name"].as_str().unwrap_or_default()),
            parameter["in"].as_str().unwrap_or_default(),
            cell(parameter["description"].as_str().unwrap_or("–"))
        );
    }
}

/// What a body is, with a link where it is an object with a name.
fn schema_of(content: &Value) -> String {
    let Some((media, body)) = content
        .as_object()
        .and_then(|content| content.iter().next())
    else {
        return String::new();
    };
    let shape = shape(&body["schema"]);
    match (media.as_str(), shape.is_empty()) {
        ("application/json", _) => shape,
        (media, true) => code(media),
        (media, false) => format!("{shape} as {}", code(media)),
    }
}

/// A schema in words.
fn shape(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return format!("[{name}](objects.md#{})", name.to_lowercase());
    }
    for any in ["oneOf", "anyOf", "allOf"] {
        if let Some(options) = schema[any].as_array() {
            let shapes: Vec<String> = options
                .iter()
                .map(shape)
                .filter(|shape| shape != "null")
                .collect();
            return shapes.join(" or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        let words = values.iter().filter_map(Value::as_str).map(code);
        return words.collect::<Vec<_>>().join(", ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .filter(|kind| *kind != "null")
            .collect(),
        _ => Vec::new(),
    };
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|kind| kind_of(kind, schema))
        .collect();
    kinds.join(" or ")
}

fn kind_of(kind: &str, schema: &Value) -> String {
    match (kind, schema["format"].as_str()) {
        ("array", _) => format!("list of {}", shape(&schema["items"])),
        ("object", _) => match schema.get("additionalProperties").map(shape) {
            Some(values) if !values.is_empty() => format!("mapping to {values}"),
            _ => "object".to_owned(),
        },
        ("string", Some("date-time")) => "time".to_owned(),
        ("string", Some("uuid")) => "UUID".to_owned(),
        ("string", _) => "text".to_owned(),
        ("integer", _) => "whole number".to_owned(),
        (kind, _) => kind.to_owned(),
    }
}

fn objects(document: &Value) -> String {
    let mut text = String::from(
        "# Objects\n\nWhat requests and answers of the [HTTP API](index.md) consist of. A field that is not required \
         may be absent or `null`. Answers may get more fields in any version; clients ignore what they do not know.\n",
    );
    for (name, schema) in document["components"]["schemas"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let _ = write!(text, "\n## {name}\n");
        if let Some(description) = schema["description"].as_str() {
            let _ = write!(text, "\n{}\n", paragraph(description));
        }
        let mut rows = Vec::new();
        rows_of(schema, &mut rows);
        if rows.is_empty() {
            let shape = shape(schema);
            if !shape.is_empty() {
                let _ = write!(text, "\nOne of: {shape}.\n");
            }
            continue;
        }
        text.push_str("\n| field | value | required | what it is |\n|---|---|---|---|\n");
        text.push_str(&rows.concat());
    }
    text
}

/// The fields of an object, also of one that is put together from others.
fn rows_of(schema: &Value, rows: &mut Vec<String>) {
    for part in schema["allOf"].as_array().into_iter().flatten() {
        match part["$ref"].is_string() {
            true => rows.push(format!("| | {} | | all of its fields |\n", shape(part))),
            false => rows_of(part, rows),
        }
    }
    let required: BTreeSet<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
        rows.push(format!(
            "| {} | {} | {} | {} |\n",
            code(field),
            cell(&shape(inner)),
            if required.contains(field.as_str()) {
                "yes"
            } else {
                ""
            },
            cell(inner["description"].as_str().unwrap_or_default())
        ));
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

/// Prose of a comment as prose of the book: what looks like a tag is text.
fn paragraph(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    generated::without_tags(&lines.join("\n"))
}

#[test]
fn the_api_reference_is_what_the_server_serves() {
    let document = document();
    let tags = by_tag(&document);
    assert!(tags.len() > 5, "the document has no operations");
    generated::page("reference/api/index.md", &index(&tags));
    generated::page("reference/api/objects.md", &objects(&document));
    for (tag, operations) in &tags {
        generated::page(
            &format!("reference/api/{tag}.md"),
            &tag_page(tag, operations),
        );
    }
}

#[test]
fn pages_of_tags_that_are_gone_go_too() {
    let document = document();
    let tags = by_tag(&document);
    let folder = crate::pages().join("reference/api");
    let mut offenders = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let name = entry.expect("an entry can be read").file_name();
        let name = name.to_string_lossy().replace(".md", "");
        if !tags.contains_key(&name) && name != "index" && name != "objects" {
            offenders.push(name);
        }
    }
    crate::assert_none(
        &offenders,
        "no route has these tags any more: remove their pages",
    );
}
