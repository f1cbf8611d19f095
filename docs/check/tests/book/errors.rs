//! The error catalogue: every text with which the server refuses something, read off
//! the calls that make it.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use self::reader::{Found, catalogue, open};
use crate::generated::{self, cell, code};
use crate::source;
use crate::{assert_none, pages, repository};

/// What each status means to whoever gets it.
const MEANING: [(u16, &str); 15] = [
    (
        400,
        "The request is wrong; sent again, it fails again. `detail` often names the field.",
    ),
    (
        401,
        "No credential, or one that is unknown, expired or revoked.",
    ),
    (
        402,
        "A budget is spent. An administrator raises it or waits.",
    ),
    (403, "The credential is known and does not open this."),
    (404, "There is no such thing, or not for this credential."),
    (
        409,
        "The state of the thing does not allow it now. Look at it, then decide.",
    ),
    (410, "It existed and was removed. It does not come back."),
    (
        413,
        "The body, or what it asks for, is larger than the server takes.",
    ),
    (422, "Well-formed, and what it asks for may not be."),
    (
        429,
        "Too many. With `Retry-After`, wait that long; without, close something first.",
    ),
    (
        500,
        "Something broke here or behind. The log has the cause, under the `x-request-id` of the answer.",
    ),
    (
        501,
        "This deployment cannot do it: it has no backend for that.",
    ),
    (
        502,
        "Something behind the server answered with nonsense or a failure. The log has the cause.",
    ),
    (503, "Not now. Try again; `Retry-After` says when."),
    (504, "Something behind the server did not answer in time."),
];

/// What to do about some texts, written by hand.
fn advice() -> BTreeMap<String, String> {
    let path = repository().join("docs/errors.yaml");
    let text = fs::read_to_string(path).expect("docs/errors.yaml can be read");
    serde_yaml::from_str(&text).expect("docs/errors.yaml maps texts to advice")
}

fn tables(found: &BTreeSet<Found>) -> String {
    let advice = advice();
    let mut text = String::new();
    for (status, meaning) in MEANING {
        let mut texts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for one in found.iter().filter(|one| one.status == status) {
            texts.entry(&one.text).or_default().insert(&one.room);
        }
        if texts.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "### {status}\n\n{meaning}\n\n| `error` | from | what to do |\n|---|---|---|\n"
        );
        for (error, rooms) in texts {
            let rooms: Vec<&str> = rooms.into_iter().collect();
            let what = advice.get(error).map(String::as_str).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                code(error),
                rooms.join(", "),
                cell(what)
            );
        }
        text.push('\n');
    }
    text
}

/// Calls whose text is put together elsewhere, which is there too.
const INDIRECT: [&str; 0] = [];

#[test]
fn the_catalogue_has_every_text_of_the_code() {
    let (found, unclear) = catalogue();
    assert!(
        found.len() > 100,
        "the calls that make errors are not recognised any more"
    );
    generated::part("reference/errors.md", "texts", &tables(&found));
    let unclear: Vec<_> = unclear
        .into_iter()
        .filter(|place| !INDIRECT.iter().any(|known| place.starts_with(known)))
        .collect();
    assert_none(
        &unclear,
        "the text of these errors cannot be read off the code: write it where the error is made, or add \
         the place to INDIRECT and the texts to the page by hand",
    );
}

#[test]
fn advice_is_about_texts_that_exist() {
    let (found, _) = catalogue();
    let texts: BTreeSet<&str> = found.iter().map(|one| one.text.as_str()).collect();
    let offenders: Vec<_> = advice()
        .into_keys()
        .filter(|text| !texts.contains(text.as_str()))
        .collect();
    assert_none(
        &offenders,
        "docs/errors.yaml advises on texts that no code has",
    );
}

/// Where a text of a table may come from.
const SOURCES: [&str; 3] = [
    "molecule-core/src",
    "molecule-hooks/src",
    "molecule-build/src",
];

#[test]
fn texts_that_were_written_by_hand_are_those_of_the_code() {
    let page = fs::read_to_string(pages().join("reference/errors.md")).expect("the page");
    let generated = page
        .split_once("<!-- begin texts -->")
        .map(|(before, _)| before);
    let known = source::texts(&SOURCES);
    let offenders: Vec<_> = generated
        .unwrap_or(&page)
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter(|(_, rest)| rest.starts_with(" |"))
        .map(|(text, _)| text)
        .filter(|text| text.contains(' '))
        .filter(|text| !known.iter().any(|known| matches(text, known)))
        .map(str::to_owned)
        .collect();
    assert_none(
        &offenders,
        "no code has these texts of docs/src/reference/errors.md any more",
    );
}

/// Whether a text of a page, with `…` for what varies, is in a text of the code.
fn matches(text: &str, known: &str) -> bool {
    let mut rest = known;
    text.split('…').all(|part| match rest.find(part.trim()) {
        Some(at) => {
            rest = &rest[at + part.trim().len()..];
            true
        }
        None => false,
    })
}

#[test]
fn values_in_texts_become_dots() {
    let constants = BTreeMap::from([("LONGEST".to_owned(), "nine".to_owned())]);
    assert_eq!(
        open("a {b} and {c:?} {{d}} {LONGEST}", &constants),
        "a … and … {d} nine"
    );
    assert!(matches("a … b", "a {x} b"));
    assert!(!matches("a … c", "a {x} b"));
}
