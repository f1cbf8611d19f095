//! The shortest TokenProvider.
