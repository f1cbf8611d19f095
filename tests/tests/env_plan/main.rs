//! The environment of the next boot, explained.
