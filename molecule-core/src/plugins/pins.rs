//! What a caller says about the bytes it wants, and whether a source may be used at all.

use molecule_hooks::PluginSource;

use super::manifest::MANIFEST_FILE;
use super::source::{LOCAL, SourceRef};
use crate::config::PluginsConfig;
use crate::error::{Error, Result};
use crate::tree::{EntryKind, Tree, TreeDigest};

/// File in which a tree states its digest of version 1, at its root.
pub(super) const STATEMENT_FILE: &str = "manifest.json";
/// A longer statement is refused.
pub(super) const MAX_STATEMENT_BYTES: u64 = 1024 * 1024;
/// How much of a pin is repeated to the client.
const MAX_SHOWN_CHARS: usize = 100;
const GITHUB: &str = "github";

/// What the caller wants the bytes to be. Empty texts are none.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins {
    /// SHA-256 of `plugin.yaml`, in hexadecimal.
    pub(super) sha256: Option<String>,
    /// Digest of version 2 of the tree, in hexadecimal.
    pub(super) tree_sha256: Option<String>,
    /// A signature of that digest by a trusted key.
    pub(super) signature: Option<String>,
    /// Lets an unpinned source pass whatever the configuration says: for what was let
    /// in before.
    pub(super) skip_pinning: bool,
    /// Digest of version 2 of a tree that was let in before, which needs no signature
    /// again. Never what a request says.
    pub(super) vetted: Option<String>,
    /// The signature that came with that tree, if one did: it must still be good.
    pub(super) vetted_signature: Option<String>,
}

/// Refuses specs that may mean other bytes tomorrow, as far as the operator wants.
pub(super) fn check_pinning(
    config: &PluginsConfig,
    source: &dyn PluginSource,
    reference: &SourceRef,
) -> Result<()> {
    let refused =
        |text: String| Err(Error::unprocessable(text).with("source", reference.to_string()));
    if !config.allow_unpinned && !source.is_pinned(&reference.spec) {
        let how = match reference.scheme.as_str() {
            GITHUB => r#"append a tag or commit SHA (e.g. "github://owner/repo#v1.2.0")"#,
            _ => "name a revision",
        };
        return refused(format!(
            "unpinned {} source: {how}. Set PLUGIN_ALLOW_UNPINNED=true to override",
            reference.scheme
        ));
    }
    // The operator's own folder: nobody else changes it.
    let is_own = reference.scheme == LOCAL;
    if config.require_immutable_ref && !is_own && !source.is_immutable(&reference.spec) {
        let how = match reference.scheme.as_str() {
            GITHUB => {
                r#"append the commit (e.g. "github://owner/repo#sha:<40 hexadecimal digits>")"#
            }
            _ => "name a revision that cannot move",
        };
        return refused(format!(
            "mutable {} source: {how}. PLUGIN_REQUIRE_IMMUTABLE_REF=true refuses branches and tags",
            reference.scheme
        ));
    }
    Ok(())
}

/// Whether the digest that a tree states of itself, if it does, is true. `statement` is
/// its `manifest.json`, `None` when that could not be read.
pub(super) fn check_statement(tree: &Tree, statement: Option<&[u8]>) -> Result<()> {
    let Some(actual) = tree.digest_v1() else {
        return Ok(());
    };
    let failed = || Error::unprocessable("plugin manifest integrity check failed");
    let statement = statement.ok_or_else(failed)?;
    match stated_digest(statement).map_err(|()| failed())? {
        Some(stated) if !is_digest(&stated, actual) => Err(failed()),
        _ => Ok(()),
    }
}

/// The `sha256` of a `manifest.json`, if it has one.
fn stated_digest(statement: &[u8]) -> Result<Option<String>, ()> {
    if statement.len() as u64 > MAX_STATEMENT_BYTES {
        return Err(());
    }
    let statement: serde_json::Value = serde_json::from_slice(statement).map_err(drop)?;
    let statement = statement.as_object().ok_or(())?;
    match statement.get("sha256") {
        None => Ok(None),
        Some(serde_json::Value::String(stated)) => Ok(Some(stated.clone())),
        Some(_) => Err(()),
    }
}

/// Compares the tree with what the caller wants.
pub(super) fn check_pins(tree: &Tree, pins: &Pins) -> Result<()> {
    if let Some(wanted) = given(pins.sha256.as_deref()) {
        let Some(EntryKind::File { sha256, .. }) =
            tree.entry(MANIFEST_FILE).map(|entry| &entry.kind)
        else {
            return Err(Error::unprocessable(
                "sha256 check failed: plugin.yaml not found in staged plugin",
            ));
        };
        compare("sha256", wanted, TreeDigest(*sha256))?;
    }
    match given(pins.tree_sha256.as_deref()) {
        Some(wanted) => compare("tree_sha256", wanted, tree.digest()),
        None => Ok(()),
    }
}

/// A text that says something.
pub(super) fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn compare(field: &str, wanted: &str, actual: TreeDigest) -> Result<()> {
    if is_digest(wanted, actual) {
        return Ok(());
    }
    let shown: String = wanted.chars().take(MAX_SHOWN_CHARS).collect();
    Err(Error::unprocessable(format!(
        "{field} mismatch: expected {shown}, got {actual}"
    )))
}

fn is_digest(text: &str, digest: TreeDigest) -> bool {
    text.trim().eq_ignore_ascii_case(&digest.to_string())
}
