//! For the tests of a hook crate: enable with `features = ["testing"]` under
//! `[dev-dependencies]`.
