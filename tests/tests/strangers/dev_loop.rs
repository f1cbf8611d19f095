//! `scripts/dev`: builds and restarts on save.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::program::{DEADLINE, Running};
use crate::story::{Story, repository, target};

/// Says its version and its port, ends by SIGTERM.
fn program(version: &str) -> String {
    format!(
        "fn main() {{\n    println!(\"version {version} on {{}}\", std::env::var(\"PORT\").unwrap());\n    \
         loop {{\n        std::thread::park();\n    }}\n}}\n"
    )
}

fn a_small_program(name: &str) -> Story {
    let story = Story::begin(name);
    let manifest =
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    story.write("Cargo.toml", &manifest);
    story.write("src/main.rs", &program("one"));
    story.write(
        "scripts/dev",
        &fs::read_to_string(repository().join("scripts/dev")).unwrap(),
    );
    fs::set_permissions(story.path("scripts/dev"), fs::Permissions::from_mode(0o755)).unwrap();
    story
}

fn dev(story: &Story, arguments: &[&str]) -> Command {
    let mut command = Command::new(story.path("scripts/dev"));
    command
        .args(arguments)
        .current_dir(story.path(""))
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("PORT")
        .env_remove("ADMIN_TOKEN");
    command
}

#[test]
fn a_save_restarts_the_program_on_its_port_and_a_broken_one_leaves_it_alone() {
    let story = a_small_program("acme-saved");
    let mut looping = Running::start(&mut dev(&story, &["--package", "acme-saved"]));
    let port = looping.wait_for(0, "version one on ");

    // when something that does not compile is saved
    story.write("src/main.rs", "fn main() {");
    looping.wait_for(0, "what runs is the version before");
    assert!(!looping.said().contains("ended with"), "{}", looping.said());

    // and then something that does
    story.write("src/main.rs", &program("two"));
    assert_eq!(looping.wait_for(0, "version two on "), port);

    // then Ctrl-C ends both
    assert_eq!(looping.end("INT"), Some(130));
}

#[test]
fn a_signal_ends_the_loop_while_it_builds() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        // given a build that takes forever
        let name = format!("acme-building-{}", signal.to_lowercase());
        let story = a_small_program(&name);
        story.write(
            "build.rs",
            "fn main() {\n    println!(\"cargo::rerun-if-changed=none\");\n    \
             std::fs::write(\"building\", \"\").unwrap();\n    \
             loop {\n        std::thread::park();\n    }\n}\n",
        );
        let mut looping = Running::start(&mut dev(&story, &["--package", &name]));
        let started = Instant::now();
        while !story.path("building").exists() {
            assert!(started.elapsed() < DEADLINE, "{}", looping.said());
            std::thread::sleep(Duration::from_millis(50));
        }

        // when the signal comes, then the loop does not wait for the build
        assert_eq!(looping.end(signal), Some(code), "{}", looping.said());
        assert!(!looping.said().contains(" runs on port "));
    }
}

#[test]
fn a_program_that_ends_by_itself_is_told_and_starts_again_after_a_change() {
    let story = a_small_program("acme-ending");
    story.write(
        "src/main.rs",
        "fn main() {\n    std::process::exit(7);\n}\n",
    );
    let mut looping = Running::start(&mut dev(&story, &["--package", "acme-ending"]));
    looping.wait_for(0, "ended with 7");
    story.write("src/main.rs", &program("mended"));
    looping.wait_for(0, "version mended on ");
    assert_eq!(looping.end("TERM"), Some(143));
}

#[test]
fn arguments_and_an_administrator_token_reach_the_program_and_the_token_is_kept() {
    let story = a_small_program("acme-token");
    story.write(
        "src/main.rs",
        "fn main() {\n    let arguments: Vec<_> = std::env::args().skip(1).collect();\n    \
         println!(\"got {} {:?}\", std::env::var(\"ADMIN_TOKEN\").unwrap(), arguments);\n}\n",
    );
    let arguments = [
        "--package",
        "acme-token",
        "--admin-token",
        "data/token",
        "--",
        "--a b",
        "c",
    ];
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let mut looping = Running::start(&mut dev(&story, &arguments));
        let got = looping.wait_for(0, "got ");
        let (token, rest) = got.split_once(' ').unwrap();
        assert_eq!(rest, r#"["--a b", "c"]"#);
        tokens.push(token.to_owned());
        looping.end("TERM");
    }
    assert_eq!(tokens[0], tokens[1]);
    assert_eq!(tokens[0].len(), 48, "{tokens:?}");
    let file = fs::metadata(story.path("data/token")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_watcher_that_is_there_is_asked_instead() {
    // given a watchexec that reports one save when it is told to
    let story = a_small_program("acme-watched");
    story.write(
        "bin/watchexec",
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\n\
         while [ ! -e report ]; do sleep 0.1; done\n\"$@\"\nwhile :; do sleep 1; done\n",
    );
    let watcher = story.path("bin/watchexec");
    fs::set_permissions(&watcher, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = dev(&story, &["--package", "acme-watched"]);
    command.env("PATH", format!("{}:{path}", story.path("bin").display()));
    let mut looping = Running::start(&mut command);
    looping.wait_for(0, "version one on ");

    // when it reports
    story.write("src/main.rs", &program("two"));
    story.write("report", "");

    // then the program is built again
    looping.wait_for(0, "version two on ");
    assert_eq!(looping.end("INT"), Some(130));
}

#[test]
fn wrong_arguments_are_refused() {
    let story = a_small_program("acme-arguments");
    for arguments in [&["--bogus"][..], &["word"], &["--package"]] {
        let output = dev(&story, arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
    }
    let output = dev(&story, &["--help"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--admin-token FILE"));
}
