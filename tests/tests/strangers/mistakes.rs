//! Mistakes that the compiler, cargo and start-up find, and whether they say what to do.

use std::fs;

use crate::program::{run_alone, said};
use crate::story::{Story, packages};

#[test]
fn a_hook_that_no_line_names_does_not_compile_and_the_line_is_told() {
    let story = Story::begin("forgotten");
    story.make("new-hook", &["acme-forgotten"]);
    story.make("new-server", &["acme-forgets"]);
    story.add_hook("acme-forgets", "acme-forgotten", false);
    let said = story.cargo_fails("acme-forgets", &["build"]);
    assert!(
        said.contains("use molecule_hook_acme_forgotten as _"),
        "{said}"
    );
}

#[test]
fn two_versions_of_the_sdk_do_not_resolve_and_who_wants_them_is_told() {
    // given a hook crate that asks for a later molecule-hooks than the server has
    let story = Story::begin("two-sdks");
    story.make("new-hook", &["acme-later"]);
    story.make("new-server", &["acme-earlier"]);
    story.add_hook("acme-earlier", "acme-later", true);
    let later = packages().join("molecule-hooks");
    for file in ["Cargo.toml", "build.rs", "README.md"] {
        let text = fs::read_to_string(later.join(file)).unwrap();
        story.write(&format!("molecule-hooks/{file}"), &text);
    }
    story.write("molecule-hooks/src/lib.rs", "");
    story.edit(
        "molecule-hooks/Cargo.toml",
        "version = \"0.1.0\"",
        "version = \"0.9.0\"",
    );
    let manifest = story.path("acme-later/Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let later = r#"molecule-hooks = { version = "0.9", path = "../molecule-hooks""#;
    let text = text
        .replace("molecule-hooks = \"0.1\"", &format!("{later} }}"))
        .replace("molecule-hooks = { version = \"0.1\"", later);
    fs::write(manifest, text).unwrap();

    // when the server is built
    let said = story.cargo_fails("acme-earlier", &["build"]);

    // then cargo names both, who asks for which, and the reason
    for part in [
        "links to the native library `molecule-hooks`",
        "\"^0.1.0\"",
        "^0.9",
        "molecule-core v0.1.0",
        "molecule-hook-acme-later v0.1.0",
    ] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

#[test]
fn hooks_of_one_name_are_refused_and_both_crates_are_told() {
    // given a hook crate in two versions, as two dependencies on one ask for it,
    // and a server that names both
    let story = Story::begin("twins");
    story.make("new-hook", &["acme-twin"]);
    story.make("new-hook", &["acme-twin", "--to", "later/acme-twin"]);
    story.edit(
        "later/acme-twin/Cargo.toml",
        "name = \"molecule-hook-acme-twin\"\nversion = \"0.1.0\"",
        "name = \"molecule-hook-acme-twin\"\nversion = \"0.2.0\"",
    );
    story.make("new-server", &["acme-twins"]);
    story.add_hook("acme-twins", "acme-twin", true);
    story.edit(
        "acme-twins/Cargo.toml",
        "[dependencies]",
        "[dependencies]\nmolecule-hook-acme-twin-later = { package = \"molecule-hook-acme-twin\", path = \"../later/acme-twin\" }",
    );
    story.name_hook("acme-twins", "acme-twin-later");
    // and another crate whose hook has the same name
    story.make("new-hook", &["acme-mirror"]);
    for file in ["src/lib.rs", "src/hook.rs"] {
        story.edit(
            &format!("acme-mirror/{file}"),
            "\"acme-mirror\"",
            "\"acme-twin\"",
        );
    }
    story.add_hook("acme-twins", "acme-mirror", true);

    // when it is built and looks at its configuration
    story.cargo_succeeds("acme-twins", &["build"]);
    let (binary, folder) = (story.binary("acme-twins"), story.path("acme-twins"));
    let env = [("MOLECULE_ENV", "development")];
    let output = run_alone(&binary, &folder, &["config", "check"], &env);

    // then that is wrong, and it says what is there twice
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    let said = said(&output);
    for part in [
        "the hook crate molecule-hook-acme-twin is linked in 2 versions (0.1.0, 0.2.0)",
        "cargo tree --duplicates",
        "two linked hooks are called \"acme-twin\"",
        "molecule-hook-acme-mirror 0.1.0",
        "remove one of the two crates",
    ] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}
