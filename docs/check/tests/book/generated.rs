//! Pages and parts of pages that follow from the code.

use std::fs;

use crate::pages;

/// Set to 1 to write them anew.
const RENEW: &str = "MOLECULE_RENEW_DOCS";

/// The first line of a page that is wholly generated.
pub(crate) const HEADER: &str = "<!-- Written by the tests: MOLECULE_RENEW_DOCS=1 cargo test -p molecule-book --test book -->\n\n";

/// The page must be exactly this.
#[track_caller]
pub(crate) fn page(path: &str, text: &str) {
    let file = pages().join(path);
    let wanted = format!("{HEADER}{}\n", text.trim_end());
    if asked() {
        let folder = file.parent().expect("a page is in a folder");
        fs::create_dir_all(folder).expect("the book is writable");
        fs::write(&file, &wanted).expect("the book is writable");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    compare(path, &found, &wanted);
}

/// The part of a page between `<!-- begin NAME -->` and `<!-- end NAME -->` must be
/// exactly this.
#[track_caller]
pub(crate) fn part(path: &str, name: &str, text: &str) {
    let file = pages().join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    let (begin, end) = (
        format!("<!-- begin {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let parts = found
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else {
        panic!("docs/src/{path} has no part {begin} … {end}");
    };
    let wanted = format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim());
    if asked() {
        fs::write(&file, &wanted).expect("the book is writable");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    compare(path, &found, &wanted);
}

fn asked() -> bool {
    std::env::var(RENEW).is_ok_and(|value| value == "1")
}

#[track_caller]
fn compare(path: &str, found: &str, wanted: &str) {
    if found == wanted {
        return;
    }
    let same = found
        .lines()
        .zip(wanted.lines())
        .take_while(|(a, b)| a == b)
        .count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(nothing)").to_owned();
    panic!(
        "docs/src/{path} does not say what the code says, first in line {}:\n  page: {}\n  code: {}\n\
         If the code is right: {RENEW}=1 cargo test -p molecule-book --test book",
        same + 1,
        line(found),
        line(wanted)
    );
}

/// A cell of a table: one line, with bars that do not end it, and no tags but in code.
pub(crate) fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    without_tags(&text).replace('|', "\\|")
}

/// What looks like a tag is text, unless it is code, where it is text anyway.
pub(crate) fn without_tags(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => part.replace('<', "&lt;"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}

/// Text in backticks, whatever is in it.
pub(crate) fn code(text: &str) -> String {
    match (text.contains('`'), text.is_empty()) {
        (_, true) => String::new(),
        (true, _) => cell(&format!("`` {text} ``")),
        (false, _) => cell(&format!("`{text}`")),
    }
}

#[test]
fn cells_hold_any_text() {
    assert_eq!(cell("a <b>\n| `c <d>`"), "a &lt;b> \\| `c <d>`");
    assert_eq!(code("a|b <c>"), "`a\\|b <c>`");
    assert_eq!(code("a `b`"), "`` a `b` ``");
}
