//! The walls of the house, checked by reading the sources.
//!
//! `ARCHITECTURE.md` says what the rooms are for; each test here says in its
//! failure text why the wall stands. Breaking one on purpose means changing the
//! rule here and its "Invariant:" line there, in the same commit.

mod arrows;
mod crates;
mod source;
mod walls;
mod writing;

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
