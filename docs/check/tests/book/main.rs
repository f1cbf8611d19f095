//! The book says what is true.
//!
//! Pages that follow from the code are written here (`MOLECULE_RENEW_DOCS=1`) and
//! compared with the committed ones; the rest is read: links lead somewhere, commands
//! run and print what the page says, files that are named exist. The Rust blocks are
//! doctests of the crate, see `src/lib.rs`.

mod api;
mod backends;
mod configuration;
mod errors;
mod generated;
mod links;
mod mdbook;
mod metrics;
mod page;
mod session;
mod shell;
mod source;
mod tables;
mod tutorial;

use std::path::{Path, PathBuf};

/// The root of the repository.
fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository is there")
}

/// The folder of the pages.
fn pages() -> PathBuf {
    repository().join("docs/src")
}

/// Fails with every offender and the reason for the rule.
#[track_caller]
fn assert_none(offenders: &[String], why: &str) {
    assert!(
        offenders.is_empty(),
        "{why}\n\n{} offender(s):\n  {}\n",
        offenders.len(),
        offenders.join("\n  ")
    );
}
