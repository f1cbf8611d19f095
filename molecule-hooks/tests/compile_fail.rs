//! The messages a hook author meets. To renew them: `TRYBUILD=overwrite`.

#[test]
fn a_wrong_registration_does_not_compile_and_says_why() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
