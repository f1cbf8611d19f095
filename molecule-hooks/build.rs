//! Exists only because `links` in `Cargo.toml` asks for a build script: see the
//! comment there. It builds nothing.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
