//! The tutorial shows a hook crate that grows. Each step is a file that compiles and
//! keeps the contract; the page shows the first whole, and of the others what changed.

use std::fs;

use crate::generated;
use crate::repository;

const PAGE: &str = "author/tutorial.md";
const STEPS: usize = 4;
/// Unchanged lines around a change.
const CONTEXT: usize = 2;

fn step(number: usize) -> String {
    let path = repository().join(format!("docs/check/tutorial/step_{number}.rs"));
    fs::read_to_string(path).expect("a step of the tutorial can be read")
}

#[derive(Clone, Copy, PartialEq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// What changed between two texts: the longest common lines stay.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let (rows, columns) = (old.len(), new.len());
    let mut longest = vec![vec![0_usize; columns + 1]; rows + 1];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            longest[row][column] = match old[row] == new[column] {
                true => longest[row + 1][column + 1] + 1,
                false => longest[row + 1][column].max(longest[row][column + 1]),
            };
        }
    }
    let (mut row, mut column, mut lines) = (0, 0, Vec::new());
    while row < rows || column < columns {
        if row < rows && column < columns && old[row] == new[column] {
            lines.push(Line::Same(old[row]));
            (row, column) = (row + 1, column + 1);
        } else if column == columns
            || (row < rows && longest[row + 1][column] >= longest[row][column + 1])
        {
            lines.push(Line::Gone(old[row]));
            row += 1;
        } else {
            lines.push(Line::New(new[column]));
            column += 1;
        }
    }
    lines
}

/// A diff without numbers, which only say where something was.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let lines = compare(&old, &new);
    let is_near = |at: usize| {
        let (from, to) = (
            at.saturating_sub(CONTEXT),
            (at + CONTEXT + 1).min(lines.len()),
        );
        lines[from..to]
            .iter()
            .any(|line| !matches!(line, Line::Same(_)))
    };
    let (mut text, mut skipped) = (String::new(), false);
    for (at, line) in lines.iter().enumerate() {
        if !is_near(at) {
            skipped = true;
            continue;
        }
        if std::mem::take(&mut skipped) {
            text.push_str("@@\n");
        }
        let (mark, line) = match line {
            Line::Same(line) => (' ', line),
            Line::Gone(line) => ('-', line),
            Line::New(line) => ('+', line),
        };
        text.push_str(format!("{mark}{line}").trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn the_tutorial_shows_the_steps_that_compile() {
    generated::part(PAGE, "step 1", &format!("```rust\n{}```", step(1)));
    for number in 2..=STEPS {
        let changes = diff(&step(number - 1), &step(number));
        generated::part(
            PAGE,
            &format!("step {number}"),
            &format!("```diff\n{changes}```"),
        );
    }
}

#[test]
fn differences_are_short() {
    let old = "a\nb\nc\nd\ne\nf\ng\n";
    let new = "a\nb\nc\nd\nE\nf\ng\n";
    assert_eq!(diff(old, new), "@@\n c\n d\n-e\n+E\n f\n g\n");
    assert_eq!(diff(old, old), "");
    assert_eq!(diff("a\n", "a\nb\n"), " a\n+b\n");
}
