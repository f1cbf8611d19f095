//! Hook crate: a live GitHub App installation token for every workspace.
