#![doc = include_str!("../README.md")]
#![expect(
    clippy::needless_doctest_main,
    reason = "the page shows a build script as a whole"
)]

mod cargo;
mod git;
mod lock;
mod manifest;

use std::fs;

/// Where [`embed`] writes, below `OUT_DIR`; `molecule_core::build_info!` reads it.
const FILE: &str = "molecule-build-info.json";

/// Writes down what the binary is made of, for `molecule_core::build_info!`. Call it
/// from `main` of a build script.
///
/// Never panics. What cannot be found out is left out; a variable that makes no sense
/// and a folder that cannot be written to are errors of the build, told through cargo.
pub fn embed() {
    let found = manifest::collect(&|name| std::env::var(name).ok());
    for directive in &found.directives {
        println!("cargo::{directive}");
    }
    let Some(folder) = std::env::var_os("OUT_DIR") else {
        println!("cargo::error=molecule_build::embed() belongs into a build script");
        return;
    };
    let path = std::path::Path::new(&folder).join(FILE);
    if let Err(error) = fs::write(path, found.manifest.to_json()) {
        println!("cargo::error=the output folder cannot be written: {error}");
    }
}
