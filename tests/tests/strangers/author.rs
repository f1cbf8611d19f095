//! Somebody writes a hook.

use crate::program::Running;
use crate::story::Story;

/// From the template to a green contract kit.
fn from_the_template(story: &Story, name: &str, options: &[&str]) {
    story.make("new-hook", &[&[name], options].concat());
    let said = story.cargo_succeeds(name, &["test"]);
    for test in [
        "the_hook_keeps_its_contract",
        "without_an_endpoint_the_hook_is_skipped",
        "README.md",
    ] {
        let passed = said
            .lines()
            .any(|line| line.contains(test) && line.ends_with("... ok"));
        assert!(passed, "no {test} in:\n{said}");
    }
}

#[test]
fn a_hook_goes_from_the_template_to_a_green_contract() {
    let story = Story::begin("hook");
    from_the_template(&story, "acme-directory", &[]);

    // and what would be published compiles for whoever gets it
    let said = story.cargo_succeeds("acme-directory", &["package", "--list", "--allow-dirty"]);
    let mut files: Vec<_> = said.lines().filter(|line| !line.contains(' ')).collect();
    files.retain(|file| !["Cargo.lock", "Cargo.toml", "Cargo.toml.orig"].contains(file));
    assert_eq!(
        files,
        [
            "CHANGELOG.md",
            "README.md",
            "contract.json",
            "src/config.rs",
            "src/hook.rs",
            "src/lib.rs",
            "tests/contract.rs",
            "tests/hook.rs",
        ]
    );
}

#[test]
fn so_does_one_that_serves_tokens() {
    let story = Story::begin("token-hook");
    from_the_template(&story, "acme-vouchers", &["--token-provider"]);
}

#[test]
fn the_contract_names_what_a_change_broke() {
    // given an author who forgets to refuse unknown keys, and panics on a short endpoint
    let story = Story::begin("broken-hook");
    story.make("new-hook", &["acme-broken", "--to", "acme-broken"]);
    story.edit(
        "acme-broken/src/config.rs",
        "#[serde(deny_unknown_fields)]\n",
        "",
    );
    story.edit(
        "acme-broken/src/hook.rs",
        "env.set(ENDPOINT, &self.endpoint)?;",
        "if env.len() > 100 {\n            panic!(\"so many\");\n        }\n        env.set(ENDPOINT, &self.endpoint)?;",
    );

    // when the kit runs
    let said = story.cargo_fails("acme-broken", &["test", "--test", "contract"]);

    // then it says which rule does not hold
    assert!(said.contains("hostile-env-panics"), "{said}");
}

#[test]
fn the_loop_shows_what_the_next_boot_gets_after_every_save() {
    let story = Story::begin("hook-loop");
    story.make("new-hook", &["acme-loop"]);

    // given the loop, with an echo workspace
    let mut command = std::process::Command::new(story.path("acme-loop/scripts/dev"));
    command
        .args(["--package", "acme-loop-dev"])
        .env("CARGO_TARGET_DIR", crate::story::target())
        .env("CARGO_NET_OFFLINE", "true")
        .env("MOLECULE_CONFIG", "dev/molecule.yaml")
        .current_dir(story.path("acme-loop"));
    let mut looping = Running::start(&mut command);
    looping.wait_for(0, "ACME_LOOP_ENDPOINT ");
    let workspace = looping.wait_for(0, "workspace  ");
    assert!(workspace.ends_with("online"), "{workspace}");

    // when the author saves another variable
    let before = looping.said().len();
    story.edit(
        "acme-loop/src/hook.rs",
        "env.set(ENDPOINT, &self.endpoint)?;",
        "env.set(ENDPOINT, &self.endpoint)?;\n        env.set(\"ACME_SAVED\", \"1\")?;",
    );

    // then the same workspace would get it at its next boot
    looping.wait_for(before, "ACME_SAVED ");
    assert_eq!(looping.wait_for(before, "workspace  "), workspace);
    looping.wait_for(before, "not yet in the running agent");

    // and Ctrl-C leaves nothing behind
    assert_eq!(looping.end("INT"), Some(130));
    assert!(looping.said().contains("is removed"), "{}", looping.said());
}
