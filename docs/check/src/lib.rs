//! Nothing to link: the pages of the book as documentation, so that their Rust blocks
//! are compiled and run as doctests, and tests that check the rest (`tests/book`).

/// Pages with Rust in them; a test says when one is missing.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../src/author/conformance.md")]
    mod conformance {}
    #[doc = include_str!("../../src/author/hooks-in-depth.md")]
    mod hooks_in_depth {}
    #[doc = include_str!("../../src/author/tutorial.md")]
    mod tutorial {}
    #[doc = include_str!("../../src/operate/install.md")]
    mod install {}
}
