//! Which files concern a workspace, the weakest first.

use std::path::PathBuf;

use molecule_hooks::WorkspaceContext;

use crate::config::Settings;
use crate::open::{self, Found, OpenError, is_safe_name};

/// One file that may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// How errors and logs call it; no path.
    pub(crate) label: &'static str,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Folder { root: PathBuf, name: String },
}

impl Layer {
    /// Its bytes; none when it is not there. Blocks.
    pub(crate) fn read(&self) -> Result<Option<Found>, OpenError> {
        match &self.place {
            Place::File(path) => open::read_file(path),
            Place::Folder { root, name } => open::read_env(root, name),
        }
    }
}

/// Everybody's file, the role's, the one by the workspace's name, the one by its id.
pub(crate) fn of(settings: &Settings, workspace: &WorkspaceContext) -> Vec<Layer> {
    let common = settings.common_file.clone().map(|path| Layer {
        label: "the common file",
        place: Place::File(path),
    });
    let in_folder = |label, root: &Option<PathBuf>, name: &str| {
        // Prose in a role is usual, so a name that is none is no mistake.
        let root = root.clone().filter(|_| is_safe_name(name))?;
        let name = name.to_owned();
        let place = Place::Folder { root, name };
        Some(Layer { label, place })
    };
    let role = workspace.role.as_deref().unwrap_or_default();
    [
        common,
        in_folder("the file of the role", &settings.roles_dir, role),
        // Names and ids share a folder, so a name must not look like another's id.
        in_folder(
            "the file of the workspace's name",
            &settings.workspaces_dir,
            if is_id(&workspace.name) {
                ""
            } else {
                &workspace.name
            },
        ),
        in_folder(
            "the file of the workspace's id",
            &settings.workspaces_dir,
            &workspace.id,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// True for every way to write a UUID that could be the name of a folder.
fn is_id(name: &str) -> bool {
    let mut digits = 0;
    let hex = name.bytes().filter(|&byte| byte != b'-').all(|byte| {
        digits += 1;
        byte.is_ascii_hexdigit()
    });
    hex && digits == 32
}
