//! What hook authors may rely on: the public interface of `molecule-hooks`.
//!
//! `molecule-hooks/api/current.txt` is that interface as it is now, and
//! `released.txt` as it was promised last. The promise itself is
//! `docs/src/STABILITY.md`; these tests hold us to it.
//!
//! The listing comes from the JSON of rustdoc, which has a new format every few
//! releases of the compiler. With a compiler whose format the crate `public-api` does
//! not read, the tests of the interface are left out, and say so.

mod api;
mod changelog;
mod foreign;
mod msrv;
mod semver;

/// Fails with every offender and the reason for the rule.
#[track_caller]
fn assert_none(offenders: &[String], why: &str) {
    assert!(
        offenders.is_empty(),
        "{why}\n\n{} offender(s):\n  {}\n",
        offenders.len(),
        offenders.join("\n  ")
    );
}
