//! Hook crate: tells every agent who it is on GitHub.
