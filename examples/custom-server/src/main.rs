//! A Molecule server compiled with two hook crates.
fn main() {}
