//! The files that the templates give.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::{is_there, said};
use crate::story::{Story, packages, repository, script, target};

/// Every file below a folder with its text, by relative path; crates of ours that lie
/// in it do not count.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if name == "vendor" {
                continue;
            }
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(name, fs::read_to_string(&path).unwrap())),
            }
        }
    }
    found
}

/// A template, its options, and those of `cargo generate` for the same.
const VARIANTS: [(&str, &[&str], &[&str]); 5] = [
    ("server", &["--released"], &["molecule_path="]),
    (
        "server",
        &["--molecule", "PACKAGES"],
        &["molecule_path=PACKAGES"],
    ),
    (
        "hook",
        &["--released"],
        &["molecule_path=", "token_provider=false"],
    ),
    (
        "hook",
        &["--released", "--token-provider"],
        &["molecule_path=", "token_provider=true"],
    ),
    (
        "hook",
        &["--molecule", "PACKAGES"],
        &["molecule_path=PACKAGES", "token_provider=false"],
    ),
];

/// Makes a variant in `folder` below the story.
fn render(story: &Story, variant: usize, name: &str, folder: &str) -> BTreeMap<String, String> {
    let (template, options, _) = VARIANTS[variant];
    let packages = packages();
    let options = options.iter().map(|option| match *option {
        "PACKAGES" => packages.to_str().unwrap(),
        option => option,
    });
    let output = script(&format!("new-{template}"))
        .args([name, "--to", folder])
        .args(options)
        .current_dir(story.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    tree(&story.path(folder))
}

#[test]
fn nothing_of_the_template_is_left_in_what_is_made_and_it_is_formatted() {
    let story = Story::begin("rendered");
    let formats = is_there(
        "rustfmt",
        &["--version"],
        "the format of what the templates give",
    );
    for name in [
        "ab",
        "acme-directory",
        "a-name-that-is-rather-long-for-a-crate-of-somebody",
    ] {
        for variant in 0..VARIANTS.len() {
            let folder = format!("{name}-{variant}");
            let files = render(&story, variant, name, &folder);
            assert!(!files.contains_key("cargo-generate.toml"), "{folder}");
            for (file, text) in &files {
                for left in ["{{", "{%", "project-name", "crate_name"] {
                    // Rust and the shell have braces of their own, but not these.
                    assert!(!text.contains(left), "{left:?} in {folder}/{file}");
                }
                for line in text.lines() {
                    assert_eq!(line.trim_end(), line, "{folder}/{file}");
                }
                let ends_once = text.ends_with('\n') && !text.ends_with("\n\n");
                assert!(ends_once, "{folder}/{file}");
            }
            if formats {
                let rust = files.keys().filter(|file| file.ends_with(".rs"));
                let rust: Vec<_> = rust.map(|file| story.path(&folder).join(file)).collect();
                let output = Command::new("rustfmt")
                    .args(["--check", "--edition", "2024"])
                    .args(rust)
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{folder}:\n{}", said(&output));
            }
        }
    }
}

#[test]
fn cargo_generate_gives_the_same() {
    let left_out = "the comparison of the scripts with cargo generate";
    if !is_there("cargo", &["generate", "--version"], left_out) {
        return;
    }
    let story = Story::begin("generated");
    let packages = packages();
    for (variant, (template, _, defines)) in VARIANTS.iter().enumerate() {
        let folder = format!("ours-{variant}");
        let ours = render(&story, variant, "acme-same", &folder);
        let place = story.path(&format!("theirs-{variant}"));
        fs::create_dir(&place).unwrap();
        let mut command = Command::new("cargo");
        command
            .args([
                "generate",
                "--silent",
                "--vcs",
                "none",
                "--name",
                "acme-same",
                "--path",
            ])
            .arg(repository().join("templates").join(template))
            .current_dir(&place)
            .stdin(Stdio::null());
        for define in *defines {
            let define = define.replace("PACKAGES", packages.to_str().unwrap());
            command.args(["--define", &define]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(ours, tree(&place.join("acme-same")), "variant {variant}");
    }
}

#[test]
fn a_folder_with_the_crates_in_it_stands_alone() {
    let story = Story::begin("vendored");
    for (new, name) in [("new-server", "acme-alone"), ("new-hook", "acme-alone-too")] {
        let output = script(new)
            .arg(name)
            .current_dir(story.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        // It can be moved, and nothing in it leads elsewhere.
        let moved = format!("moved/{name}");
        fs::create_dir_all(story.path("moved")).unwrap();
        fs::rename(story.path(name), story.path(&moved)).unwrap();
        fs::copy(
            repository().join("Cargo.lock"),
            story.path(&moved).join("Cargo.lock"),
        )
        .unwrap();
        let output = story.cargo(&moved, &["metadata", "--format-version=1", "--offline"]);
        assert!(output.status.success(), "{}", said(&output));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let here = story.path(&moved).display().to_string();
        for package in metadata["packages"].as_array().unwrap() {
            let manifest = package["manifest_path"].as_str().unwrap();
            let ours = package["source"].is_null();
            assert!(!ours || manifest.starts_with(&here), "{manifest}");
        }
        assert!(!target().join("debug").join(name).exists());
    }
}

#[test]
fn the_loop_is_the_same_in_both_templates_and_here() {
    let ours = fs::read_to_string(repository().join("scripts/dev")).unwrap();
    for template in ["server", "hook"] {
        let path = repository()
            .join("templates")
            .join(template)
            .join("scripts/dev");
        let copy = fs::read_to_string(&path).unwrap();
        assert!(ours == copy, "copy scripts/dev to {}", path.display());
    }
}

#[test]
fn the_image_has_two_stages_and_a_user_without_rights() {
    let story = Story::begin("image");
    let files = render(&story, 0, "acme-image", "acme-image");
    let stages: Vec<&str> = files["Dockerfile"].split("\nFROM ").skip(1).collect();
    let [build, last] = stages[..] else {
        panic!("not two stages: {stages:?}");
    };
    assert!(build.contains("cargo build --locked --release"), "{build}");
    assert!(last.starts_with("debian:${DEBIAN}-slim"), "{last}");
    assert!(last.contains("\nUSER 10001:10001\n") && last.contains("ENTRYPOINT [\"acme-image\"]"));
    // Nobody but the server says that it is up.
    assert!(last.contains("\nHEALTHCHECK ") && last.contains("GET /health "));
    assert!(build.contains("\nARG MOLECULE_GIT_REVISION\n"));
    assert!(
        !last.contains("COPY . "),
        "sources stay out of the image: {last}"
    );
    for left_out in [".git", "target", "data", ".env"] {
        let mut lines = files[".dockerignore"].lines();
        assert!(lines.any(|line| line == left_out), "{left_out}");
    }
    // What holds secrets is not committed either.
    assert!(files[".gitignore"].contains("/.env\n") && files[".gitignore"].contains("/data\n"));
}

#[test]
fn the_compose_files_are_right() {
    let story = Story::begin("compose");
    render(&story, 0, "acme-compose", "acme-compose");
    if !is_there(
        "docker",
        &["compose", "version"],
        "the compose files of the template",
    ) {
        return;
    }
    fs::copy(
        story.path("acme-compose/.env.example"),
        story.path("acme-compose/.env"),
    )
    .unwrap();
    let env = [
        "ADMIN_TOKEN",
        "SECRETS_ENCRYPTION_KEY",
        "POSTGRES_PASSWORD",
        "DOCKER_GID",
    ];
    for files in [
        &["docker-compose.yml"][..],
        &["docker-compose.yml", "docker-compose.dev.yml"],
    ] {
        let output = Command::new("docker")
            .arg("compose")
            .args(files.iter().flat_map(|file| ["-f", file]))
            .args(["config", "--quiet"])
            .envs(env.map(|name| (name, "1")))
            .current_dir(story.path("acme-compose"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{files:?}: {}", said(&output));
    }
}

#[test]
fn the_page_about_installing_puts_files_where_the_unit_looks_for_them() {
    let story = Story::begin("page");
    let unit = &render(&story, 0, "myserver", "myserver")["deploy/server.service"];
    let page = fs::read_to_string(repository().join("docs/src/operate/install.md")).unwrap();
    let binary = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="));
    let secrets = unit
        .lines()
        .filter_map(|line| line.strip_prefix("LoadCredential="))
        .filter_map(|line| Some(line.split_once(':')?.1));
    let folder = unit
        .lines()
        .filter_map(|line| line.strip_prefix("WorkingDirectory="));
    let settings = folder.map(|folder| format!("{folder}/molecule.yaml"));
    let mut files: Vec<String> = binary.chain(secrets).map(str::to_owned).collect();
    files.extend(settings);
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        assert!(page.contains(&format!(" {file}\n")), "no {file}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let story = Story::begin("unit");
    let files = render(&story, 0, "acme-unit", "acme-unit");
    if !is_there(
        "systemd-analyze",
        &["--version"],
        "the check of the systemd unit",
    ) {
        return;
    }
    // The program is not installed here.
    let unit = files["deploy/server.service"]
        .replace("ExecStart=/usr/local/bin/acme-unit", "ExecStart=/bin/true");
    story.write("acme-unit.service", &unit);
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(story.path("acme-unit.service"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
    let told = said(&verified);
    assert!(!told.contains("acme-unit"), "{told}");
}
