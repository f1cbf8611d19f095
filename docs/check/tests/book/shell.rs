//! The commands of the book run, or say why they do not.

use crate::assert_none;
use crate::page::Page;
use crate::session::{Ask, run};

/// One test for each page with commands that run.
macro_rules! pages_that_run {
    ($($name:ident: $path:literal),+ $(,)?) => {
        const RUN: &[&str] = &[$($path),+];
        $(
            #[test]
            fn $name() {
                run($path);
            }
        )+
    };
}

pages_that_run! {
    the_commands_about_back_ups_run: "operate/backup.md",
    the_commands_about_configuration_run: "operate/configure.md",
    the_commands_about_postgresql_run: "operate/postgresql.md",
    the_commands_about_security_run: "operate/secure.md",
    the_commands_about_several_servers_run: "operate/replicas.md",
    the_commands_about_upgrades_run: "operate/upgrade.md",
    the_commands_about_watching_run: "operate/observe.md",
    the_commands_of_concepts_run: "concepts.md",
    the_commands_of_the_command_line_run: "reference/cli.md",
}

#[test]
fn every_command_of_the_book_runs_or_says_why_not() {
    let mut offenders = Vec::new();
    for page in Page::all() {
        for block in page.blocks() {
            let place = format!("{}:{}", page.path, block.line);
            if ["bash", "shell", "console", "zsh"].contains(&block.language.as_str()) {
                offenders.push(format!("{place}: write `sh`"));
            }
            match Ask::of(&block) {
                Err(why) => offenders.push(format!("{place}: {why}")),
                Ok(Ask::Works | Ask::Exits(_)) if block.language == "sh" => {
                    if !RUN.contains(&page.path.as_str()) {
                        offenders.push(format!("{place}: is run by no test"));
                    }
                }
                Ok(Ask::Works) if block.language == "text" => {
                    if block.text.lines().any(|line| line.starts_with("$ ")) {
                        offenders.push(format!("{place}: commands in a block of text"));
                    }
                }
                Ok(_) => {}
            }
        }
    }
    assert_none(
        &offenders,
        "a block of commands is run by a test of its page (tests/book/shell.rs), or the comment before it \
         says why not: <!-- example: … -->",
    );
}

#[test]
fn data_in_the_book_can_be_read() {
    let mut offenders = Vec::new();
    for page in Page::all() {
        for block in page.blocks() {
            let problem = match block.language.as_str() {
                "yaml" => serde_yaml::from_str::<serde_yaml::Value>(&block.text)
                    .err()
                    .map(|e| e.to_string()),
                "json" => serde_json::from_str::<serde_json::Value>(&block.text)
                    .err()
                    .map(|e| e.to_string()),
                _ => None,
            };
            if let Some(problem) = problem {
                offenders.push(format!("{}:{}: {problem}", page.path, block.line));
            }
        }
    }
    assert_none(&offenders, "YAML and JSON of the book must be that");
}

#[test]
fn rust_of_the_book_compiles() {
    let mut offenders = Vec::new();
    for page in Page::all() {
        for (at, line) in page.text.lines().enumerate() {
            if line.starts_with("```rust") && line.contains("ignore") {
                offenders.push(format!("{}:{}", page.path, at + 1));
            }
        }
    }
    assert_none(
        &offenders,
        "Rust that is not compiled is not Rust: make it text, or let it compile",
    );
}

#[test]
fn every_page_with_rust_is_a_doctest() {
    let listed = include_str!("../../src/lib.rs");
    let offenders: Vec<_> = Page::all()
        .into_iter()
        .filter(|page| page.blocks().iter().any(|block| block.language == "rust"))
        .filter(|page| !listed.contains(&format!("\"../../src/{}\"", page.path)))
        .map(|page| page.path)
        .collect();
    assert_none(
        &offenders,
        "docs/check/src/lib.rs does not list these pages, so their Rust is not compiled",
    );
}
