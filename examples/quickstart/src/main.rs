//! One command that boots a real workspace and shows what happened.
fn main() {}
