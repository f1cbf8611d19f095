//! What tests of images share.

pub(crate) mod registry;
