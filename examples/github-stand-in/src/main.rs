//! The stand-in binary.
fn main() {}
