//! What cargo says in the environment of a build script.

use std::path::Path;
use std::process::{Command, Stdio};

/// Name of the profile. `PROFILE` only tells debug from release; the folder of the
/// output is called after the profile.
pub(crate) fn profile(set: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let from_folder = || {
        let folder = set("OUT_DIR")?;
        let mut parts = Path::new(&folder).ancestors();
        // …/<profile>/build/<package>/out, and whatever else cargo puts behind `build`.
        let build = parts.find(|part| part.ends_with("build"))?;
        Some(build.parent()?.file_name()?.to_str()?.to_owned())
    };
    let name = from_folder().or_else(|| set("PROFILE"))?;
    Some(match name.as_str() {
        "debug" => "dev".to_owned(),
        _ => name,
    })
}

/// The features of the package that are on, sorted.
pub(crate) fn features(set: &impl Fn(&str) -> Option<String>) -> Vec<String> {
    let list = set("CARGO_CFG_FEATURE").unwrap_or_default();
    let mut features: Vec<String> = list
        .split(',')
        .filter(|feature| !feature.is_empty())
        .map(str::to_owned)
        .collect();
    features.sort();
    features.dedup();
    features
}

/// The line that the compiler says about itself.
pub(crate) fn rustc_version(rustc: &str) -> Option<String> {
    let output = Command::new(rustc)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, value: &'static str) -> impl Fn(&str) -> Option<String> {
        move |asked| (asked == name).then(|| value.to_owned())
    }

    #[test]
    fn a_profile_is_called_after_its_folder() {
        for (folder, name) in [
            ("/x/target/debug/build/server-0a1b/out", "dev"),
            ("/x/target/release/build/server-0a1b/out", "release"),
            (
                "/x/target/aarch64-unknown-linux-gnu/dist/build/server-0a1b/out",
                "dist",
            ),
            ("/build/target/dist/build/server/0a1b/out", "dist"),
        ] {
            assert_eq!(
                profile(&of("OUT_DIR", folder)).as_deref(),
                Some(name),
                "{folder}"
            );
        }
        assert_eq!(profile(&of("PROFILE", "debug")).as_deref(), Some("dev"));
        assert_eq!(profile(&of("OUT_DIR", "/elsewhere")), None);
        assert_eq!(profile(&|_| None), None);
    }

    #[test]
    fn features_are_a_sorted_list() {
        let found = features(&of("CARGO_CFG_FEATURE", "b-two,a,default"));
        assert_eq!(found, ["a", "b-two", "default"]);
        assert!(features(&|_| None).is_empty());
    }

    #[test]
    fn a_compiler_that_does_not_run_has_no_version() {
        let version = rustc_version("rustc").expect("the compiler runs");
        assert!(version.starts_with("rustc 1."), "{version}");
        assert_eq!(rustc_version("/no/such/compiler"), None);
        assert_eq!(rustc_version("false"), None);
    }
}
