//! The plugins in the workspace: which of them this agent loads, and why not the others.
//!
//! They lie in `plugins/` of the config folder, one folder each, and in a shared folder.
//! A folder whose name begins with a dot is none, whatever is in it: the platform puts
//! plugins together in such folders. A folder without the regular file `.complete` is
//! half a plugin and refused; its name stays taken, so that the shared copy of it, which
//! may be another version, does not come in instead. `.complete` itself is no content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config_file;
use crate::log;
use crate::settings::Env;

const FOLDER: &str = "plugins";
const MARKER: &str = ".complete";
const MAX_MARKER_BYTES: u64 = 4 << 10;
const MAX_MANIFEST_BYTES: u64 = 64 << 10;
const MAX_SKILL_BYTES: u64 = 16 << 10;
/// The platform takes no more in one report.
const MAX_PLUGINS: usize = 256;
const MAX_SKILLS: usize = 64;

/// What happens to a folder without a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unmarked {
    Loaded,
    LoadedWithAWarning,
    Refused,
}

/// Where plugins are looked for.
pub(crate) struct Loader {
    own: PathBuf,
    shared: PathBuf,
    unmarked: Unmarked,
}

/// A plugin as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    folder: PathBuf,
    version: Option<String>,
    /// From the marker.
    tree_sha256: Option<String>,
    sha: Option<String>,
    pub(crate) skills: Vec<String>,
    /// Why it was not loaded.
    pub(crate) refused: Option<&'static str>,
}

impl Loader {
    /// The loader for a config folder.
    pub(crate) fn new(config_dir: &Path, env: &Env) -> Self {
        let shared = env.get("PLUGINS_DIR");
        Self {
            own: config_dir.join(FOLDER),
            shared: shared.map_or_else(|| PathBuf::from("/plugins"), PathBuf::from),
            unmarked: match env.get("PLUGIN_REQUIRE_COMPLETE_MARKER").as_deref() {
                Some("off") => Unmarked::Loaded,
                Some("warn") => Unmarked::LoadedWithAWarning,
                _ => Unmarked::Refused,
            },
        }
    }

    /// Reads all plugins anew, sorted by name.
    pub(crate) fn load(&self) -> Vec<Plugin> {
        let mut found = BTreeMap::new();
        for (name, folder) in folders(&self.own) {
            let plugin = self.own_plugin(&name, folder);
            found.insert(name, plugin);
        }
        for (name, folder) in folders(&self.shared) {
            // The first one of a name counts, also when it was refused.
            found
                .entry(name.clone())
                .or_insert_with(|| Plugin::read(&name, folder));
        }
        found.into_values().take(MAX_PLUGINS).collect()
    }

    fn own_plugin(&self, name: &str, folder: PathBuf) -> Plugin {
        let is_whole = fs::symlink_metadata(folder.join(MARKER)).is_ok_and(|found| found.is_file());
        if is_whole || self.unmarked == Unmarked::Loaded {
            return Plugin::read(name, folder);
        }
        if self.unmarked == Unmarked::LoadedWithAWarning {
            log::line(&format!("plugin {name} has no {MARKER}"));
            return Plugin::read(name, folder);
        }
        Plugin {
            name: name.to_owned(),
            folder,
            version: None,
            tree_sha256: None,
            sha: None,
            skills: Vec::new(),
            refused: Some("no .complete marker"),
        }
    }
}

impl Plugin {
    fn read(name: &str, folder: PathBuf) -> Self {
        let marker = regular(&folder.join(MARKER), MAX_MARKER_BYTES).unwrap_or_default();
        let marker: Value = serde_json::from_slice(&marker).unwrap_or_default();
        let text = |key: &str| marker.get(key)?.as_str().map(str::to_owned);
        let manifest = regular(&folder.join("plugin.yaml"), MAX_MANIFEST_BYTES).unwrap_or_default();
        let mut skills: Vec<String> = folders(&folder.join("skills"))
            .filter(|(_, skill)| skill.join("SKILL.md").is_file())
            .map(|(skill, _)| skill)
            .take(MAX_SKILLS)
            .collect();
        skills.sort_unstable();
        Self {
            name: name.to_owned(),
            version: config_file::field(&manifest, "version").filter(|text| !is_number(text)),
            tree_sha256: text("tree_sha256"),
            sha: text("sha"),
            skills,
            refused: None,
            folder,
        }
    }

    /// As the platform wants it in registrations and heartbeats.
    pub(crate) fn report(&self) -> Value {
        let mut report = json!({ "name": self.name });
        for (key, value) in [
            ("version", self.version.as_deref()),
            ("tree_sha256", self.tree_sha256.as_deref()),
            ("sha", self.sha.as_deref()),
            ("error", self.refused),
        ] {
            if let Some(value) = value {
                report[key] = value.into();
            }
        }
        report
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        if let Some(why) = self.refused {
            return format!("{} refused: {why}", self.name);
        }
        let version = self.version.as_deref().unwrap_or("0.0.0");
        let digest = self.tree_sha256.as_deref().unwrap_or("unknown");
        let digest: String = digest.chars().take(12).collect();
        format!(
            "{} {version} tree {digest} skills [{}]",
            self.name,
            self.skills.join(", ")
        )
    }

    /// What a skill says.
    pub(crate) fn skill(&self, name: &str) -> Option<String> {
        // Only names that were found: none of them leads anywhere else.
        let known = self.skills.iter().find(|skill| *skill == name)?;
        let file = self.folder.join("skills").join(known).join("SKILL.md");
        let text = regular(&file, MAX_SKILL_BYTES)?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

/// What a report says of all of them.
pub(crate) fn report(plugins: &[Plugin]) -> Value {
    plugins.iter().map(Plugin::report).collect()
}

/// The folders in a folder, without hidden ones, links, and names that are no text.
fn folders(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        // The kind is that of the entry itself, not of where it leads.
        let is_folder = entry.file_type().ok()?.is_dir();
        (is_folder && !name.starts_with('.')).then(|| (name, entry.path()))
    })
}

/// The beginning of a regular file; nothing through a link.
fn regular(path: &Path, most: u64) -> Option<Vec<u8>> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    is_file.then(read)?.ok()
}

/// A bare number is no version: `1.0` and `1.00` would be the same.
fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct World {
        dir: tempfile::TempDir,
        pairs: Vec<(&'static str, String)>,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let shared = dir.path().join("shared").display().to_string();
            let pairs = vec![("PLUGINS_DIR", shared)];
            Self { dir, pairs }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn load(&self) -> Vec<Plugin> {
            let pairs: Vec<_> = self.pairs.iter().map(|(k, v)| (*k, v.as_str())).collect();
            Loader::new(&self.dir.path().join("configs"), &Env::fixed(&pairs)).load()
        }

        fn lines(&self) -> Vec<String> {
            self.load().iter().map(Plugin::line).collect()
        }
    }

    #[test]
    fn a_whole_plugin_is_loaded_and_reported_as_its_marker_says() {
        let world = World::new();
        let marker = r#"{"version":1,"sha":"abc","tree_sha256":"0123456789abcdef"}"#;
        world.write("configs/plugins/careful/.complete", marker);
        world.write(
            "configs/plugins/careful/plugin.yaml",
            "name: x\nversion: 1.2.0\n",
        );
        world.write(
            "configs/plugins/careful/skills/look/SKILL.md",
            "Look twice.",
        );
        world.write("configs/plugins/careful/skills/empty/README.md", "");
        let loaded = world.load();
        let expected = json!([{
            "name": "careful", "version": "1.2.0", "sha": "abc", "tree_sha256": "0123456789abcdef",
        }]);
        assert_eq!(report(&loaded), expected);
        let line = "careful 1.2.0 tree 0123456789ab skills [look]";
        assert_eq!(loaded[0].line(), line);
        assert_eq!(loaded[0].skill("look").as_deref(), Some("Look twice."));
        for name in ["empty", "..", "../../x", "look/../look", ""] {
            assert_eq!(loaded[0].skill(name), None, "{name}");
        }
    }

    #[test]
    fn hidden_folders_links_and_files_are_no_plugins() {
        let world = World::new();
        world.write("configs/plugins/.staging/x/.complete", "");
        world.write("configs/plugins/.previous/.complete", "");
        world.write("configs/plugins/file", "");
        world.write("elsewhere/.complete", "");
        let elsewhere = world.dir.path().join("elsewhere");
        symlink(&elsewhere, world.dir.path().join("configs/plugins/link")).unwrap();
        assert_eq!(world.load(), []);
        assert_eq!(report(&world.load()), json!([]));
    }

    #[test]
    fn half_a_plugin_is_refused_and_keeps_its_name() {
        let mut world = World::new();
        world.write("configs/plugins/half/plugin.yaml", "version: 2.0.0");
        world.write("shared/half/plugin.yaml", "version: 1.0.0");
        world.write("shared/other/plugin.yaml", "version: 0.1");
        // A link to a marker is none.
        world.write("configs/plugins/linked/x", "");
        let marker = world.dir.path().join("configs/plugins/linked/.complete");
        symlink("/proc/self/environ", marker).unwrap();
        assert_eq!(
            world.lines(),
            [
                "half refused: no .complete marker",
                "linked refused: no .complete marker",
                "other 0.0.0 tree unknown skills []",
            ]
        );
        let half = json!({ "name": "half", "error": "no .complete marker" });
        assert_eq!(world.load()[0].report(), half);
        for mode in ["off", "warn"] {
            world.pairs.truncate(1);
            world
                .pairs
                .push(("PLUGIN_REQUIRE_COMPLETE_MARKER", mode.to_owned()));
            assert_eq!(
                world.lines()[0],
                "half 2.0.0 tree unknown skills []",
                "{mode}"
            );
            assert_eq!(world.load()[1].tree_sha256, None, "never through a link");
        }
    }

    #[test]
    fn nonsense_is_survived() {
        let world = World::new();
        assert_eq!(world.load(), [], "no folder at all");
        world.write("configs/plugins/odd/.complete", "[1, not json");
        world.write("configs/plugins/odd/plugin.yaml", "version: [1]\n\u{0}: x");
        assert_eq!(world.lines(), ["odd 0.0.0 tree unknown skills []"]);
    }
}
