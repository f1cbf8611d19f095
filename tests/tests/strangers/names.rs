//! What `scripts/new-server` and `scripts/new-hook` refuse.

use std::fs;

use crate::program::said;
use crate::story::{Story, script};

const SCRIPTS: [&str; 2] = ["new-server", "new-hook"];

#[test]
fn a_bad_name_is_refused_before_anything_is_made() {
    let story = Story::begin("names");
    let long = "a".repeat(61);
    let names = [
        "Acme",
        "1acme",
        "acme_x",
        "acme--x",
        "acme-",
        "a/b",
        "../up",
        "a b",
        "a.b",
        "ä",
        "$(id)",
        "a\"b",
        "self",
        "async",
        "test",
        "core",
        "molecule-core",
        "tokio",
        long.as_str(),
    ];
    for name in names {
        for new in SCRIPTS {
            let output = script(new)
                .args([name, "--released"])
                .current_dir(story.path(""))
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(1), "{name:?}: {}", said(&output));
            assert!(
                said(&output).contains("name"),
                "{name:?}: {}",
                said(&output)
            );
        }
    }
    let output = script("new-hook")
        .args(["admin", "--released"])
        .current_dir(story.path(""))
        .output()
        .unwrap();
    assert!(said(&output).contains("variable of the platform"));
    let output = script("new-hook")
        .args(["molecule-hook-acme", "--released"])
        .current_dir(story.path(""))
        .output()
        .unwrap();
    let said = said(&output);
    assert!(said.contains("the name of the hook, acme;"), "{said}");
    assert_eq!(fs::read_dir(story.path("")).unwrap().count(), 0);
}

#[test]
fn wrong_arguments_are_refused_with_the_reason() {
    let story = Story::begin("arguments");
    story.write("taken/file", "mine");
    story.write("a-file", "mine");
    for (arguments, code, reason) in [
        (&[][..], 2, "NAME"),
        (&["--bogus"], 1, "unknown option"),
        (&["one", "two"], 1, "one name"),
        (&["taken", "--released"], 1, "is there already"),
        (
            &["acme", "--released", "--to", "a-file"],
            1,
            "is there already",
        ),
        (&["acme", "--to"], 1, "--to wants"),
        (&["acme", "--molecule"], 1, "--molecule wants"),
        (&["acme", "--molecule", "/nowhere"], 1, "no molecule-core"),
    ] {
        for new in SCRIPTS {
            let output = script(new)
                .args(arguments)
                .current_dir(story.path(""))
                .output()
                .unwrap();
            assert_eq!(
                output.status.code(),
                Some(code),
                "{arguments:?}: {}",
                said(&output)
            );
            assert!(
                said(&output).contains(reason),
                "{arguments:?}: {}",
                said(&output)
            );
        }
    }
    let output = script("new-server")
        .args(["acme", "--token-provider"])
        .current_dir(story.path(""))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(
        fs::read_to_string(story.path("taken/file")).unwrap(),
        "mine"
    );
    assert!(!story.path("acme").exists());
}
