//! Somebody writes a hook.

use std::fs;

use crate::program::{Running, said};
use crate::story::{Story, packages, repository};

/// Set to `1`, it lets the kit write verdicts, and this test the one of the template.
const WRITE: &str = "MOLECULE_WRITE_VERDICT";
const HINT: &str = "MOLECULE_WRITE_VERDICT=1 cargo test -p molecule-tests --test strangers author:: \
    writes templates/hook/contract.json again";
const NAME: &str = "acme-directory";

fn may_write() -> bool {
    std::env::var(WRITE).is_ok_and(|value| value == "1")
}

/// From the template to a green contract kit; the verdict.
fn from_the_template(story: &Story, options: &[&str]) -> String {
    let name = NAME;
    story.make("new-hook", &[&[name], options].concat());
    if may_write() {
        story.cargo_succeeds(name, &["test", "--test", "contract"]);
    }
    let output = story.cargo(name, &["test"]);
    let said = said(&output);
    assert!(
        output.status.success(),
        "{said}\nif only contract.json is not current: {HINT}"
    );
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
    fs::read_to_string(story.path(name).join("contract.json")).unwrap()
}

/// One text for both verdicts: what differs stands between tags.
fn merged(without: &str, with: &str) -> String {
    let (without, with): (Vec<_>, Vec<_>) = (without.lines().collect(), with.lines().collect());
    let differs: Vec<_> = (0..with.len())
        .filter(|at| without.get(*at) != with.get(*at))
        .collect();
    assert_eq!(
        without.len(),
        with.len(),
        "the kit leaves nothing out, it says not-checked"
    );
    let (first, last) = (differs[0], differs[differs.len() - 1] + 1);
    let tag = |tag: &'static str| std::iter::once(tag);
    let lines = with[..first].iter().copied();
    let lines = lines
        .chain(tag("{%- if token_provider %}"))
        .chain(with[first..last].iter().copied())
        .chain(tag("{%- endif %}"))
        .chain(tag("{%- unless token_provider %}"))
        .chain(without[first..last].iter().copied())
        .chain(tag("{%- endunless %}"))
        .chain(with[last..].iter().copied());
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    text.replace(NAME, "{{project-name}}")
}

#[test]
fn a_hook_goes_from_the_template_to_a_green_contract_with_and_without_tokens() {
    let story = Story::begin("hook");
    let without = from_the_template(&story, &[]);

    // and what would be published is what its users need
    let said = story.cargo_succeeds(NAME, &["package", "--list", "--allow-dirty"]);
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

    let story = Story::begin("token-hook");
    let with = from_the_template(&story, &["--token-provider"]);

    // and the template has the verdicts of both
    let path = repository().join("templates/hook/contract.json");
    let current = merged(&without, &with);
    if may_write() {
        fs::write(path, current).unwrap();
    } else {
        let there = fs::read_to_string(path).unwrap();
        assert!(
            there == current,
            "templates/hook/contract.json is written in another way; {HINT}"
        );
    }
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

/// Lets the author try the hook together with one of ours. That server then has the
/// dependencies of the other stories', those for building included, so that cargo
/// compiles them, and the library of the server, once for all.
fn beside_another_hook(story: &Story, name: &str) {
    let packages = packages();
    let patch = |name: &str, folder: &str| {
        let path = packages.join(folder);
        format!("{name} = {{ path = {path:?} }}\n")
    };
    let patches = [
        "[patch.crates-io]\n".to_owned(),
        patch("molecule-hook-github-app-auth", "plugins/github-app-auth"),
        patch("molecule-build", "molecule-build"),
        patch("molecule-hooks-http", "molecule-hooks-http"),
    ];
    let manifest = format!("{name}/Cargo.toml");
    story.edit(&manifest, "[patch.crates-io]\n", &patches.concat());
    let dependencies = "[build-dependencies]\nmolecule-build = \"0.1\"\n\n[dependencies]\n\
                        molecule-hook-github-app-auth = \"0.1\"\n";
    let manifest = format!("{name}/dev/Cargo.toml");
    story.edit(&manifest, "[dependencies]\n", dependencies);
    let line = "// The hook that is tried.\nuse molecule_hook_github_app_auth as _;";
    let main = format!("{name}/dev/src/main.rs");
    story.edit(&main, "// The hook that is tried.", line);
}

#[test]
fn the_loop_shows_what_the_next_boot_gets_after_every_save() {
    let story = Story::begin("hook-loop");
    story.make("new-hook", &["acme-loop"]);
    beside_another_hook(&story, "acme-loop");

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
