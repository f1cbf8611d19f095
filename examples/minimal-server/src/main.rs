//! The smallest Molecule server: no hooks.
fn main() {}
