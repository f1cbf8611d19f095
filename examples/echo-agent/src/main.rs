//! The echo agent binary.
fn main() {}
