use super::known::{ENTRY_BYTES, MOST_OWNERS, PASSING_BYTES};
use molecule_hooks::REDACTED;

use super::*;

#[test]
fn a_value_is_known_in_json_and_in_debug_output_too() {
    let redactor = Redactor::default();
    let value = "pass\"word\\with\tall \u{e4}\u{1}";
    redactor.learn(value);
    let text = format!("{} {value:?} {value}", serde_json::json!({ "a": value }));
    assert_eq!(
        redactor.redact(&text),
        r#"{"a":"[REDACTED]"} "[REDACTED]" [REDACTED]"#
    );
}

#[test]
fn a_shape_inside_a_known_value_does_not_save_the_rest_of_it() {
    let redactor = Redactor::default();
    redactor.learn("before!sk-0123456789abcdef!after");
    assert_eq!(
        redactor.redact("x before!sk-0123456789abcdef!after y"),
        "x [REDACTED] y"
    );
}

#[test]
fn json_is_masked_however_deep() {
    let redactor = Redactor::default();
    redactor.learn("hunter2-long");
    let mut value = serde_json::json!({ "a": [{ "b": "x hunter2-long" }], "n": 1 });
    redactor.redact_json_of(Uuid::nil(), &mut value);
    assert_eq!(
        value,
        serde_json::json!({ "a": [{ "b": "x [REDACTED]" }], "n": 1 })
    );
}

#[test]
fn what_is_of_one_workspace_is_left_alone_in_the_words_of_others() {
    let redactor = Redactor::default();
    let [one, two, three] = [1, 2, 3].map(Uuid::from_u128);
    redactor.learn_of(one, "common-word");
    redactor.learn_of(one, "common-word-and-more");
    redactor.learn_of(two, "common-word-and-more");
    redactor.learn("global-secret");
    let text = "common-word-and-more common-word global-secret ghs_0123456789abcdef";
    for (workspace, masked) in [
        (one, "[REDACTED] [REDACTED] [REDACTED] [REDACTED]"),
        (two, "[REDACTED] common-word [REDACTED] [REDACTED]"),
        (
            three,
            "common-word-and-more common-word [REDACTED] [REDACTED]",
        ),
    ] {
        assert_eq!(redactor.redact_of(workspace, text), masked);
    }
    let all = "[REDACTED] [REDACTED] [REDACTED] [REDACTED]";
    assert_eq!(redactor.redact(text), all);
    // A shorter one that counts is found behind a longer one that does not.
    redactor.learn_of(three, "common-word");
    let masked = "[REDACTED]-and-more [REDACTED] [REDACTED] [REDACTED]";
    assert_eq!(redactor.redact_of(three, text), masked);
    // What becomes everybody's stays so.
    redactor.learn("common-word");
    redactor.learn_of(one, "common-word");
    assert_eq!(redactor.redact_of(two, "common-word"), REDACTED);
}

#[test]
fn a_value_of_very_many_is_masked_for_everybody() {
    let redactor = Redactor::default();
    for owner in 1..=MOST_OWNERS as u128 {
        redactor.learn_of(Uuid::from_u128(owner), "popular");
        redactor.learn_of(Uuid::from_u128(owner), "popular");
    }
    assert_eq!(redactor.redact_of(Uuid::nil(), "popular"), "popular");
    redactor.learn_of(Uuid::max(), "popular");
    assert_eq!(redactor.redact_of(Uuid::nil(), "popular"), REDACTED);
}

#[test]
fn learned_values_and_token_shapes_disappear_and_the_rest_stays() {
    let redactor = Redactor::default();
    redactor.learn("hunter2-long");
    redactor.learn("abc");
    redactor.learn("line-one-secret\nline-two-secret");
    let text = "abc hunter2-long line-two-secret ghs_0123456789abcdef";
    assert_eq!(
        redactor.redact(text),
        "abc [REDACTED] [REDACTED] [REDACTED]"
    );
}

#[test]
fn passing_values_push_out_the_oldest_of_their_kind_and_nothing_else() {
    let redactor = Redactor::default();
    redactor.learn_for_good("the-server's-own");
    redactor.learn("a-stored-secret");
    redactor.learn_passing("a-token-that-was-stored-later");
    redactor.learn("a-token-that-was-stored-later");
    redactor.learn_passing("a-stored-secret");
    let tokens = PASSING_BYTES / ENTRY_BYTES;
    for n in 0..=tokens {
        redactor.learn_passing(&format!("value-{n:08}"));
    }
    assert_eq!(redactor.redact("value-00000000"), "value-00000000");
    for known in [
        "the-server's-own",
        "a-stored-secret",
        "a-token-that-was-stored-later",
        &format!("value-{tokens:08}"),
    ] {
        assert_eq!(redactor.redact(known), REDACTED, "{known}");
    }
}

#[test]
fn what_is_learned_again_is_young_again() {
    let redactor = Redactor::default();
    let large = |n: u32| format!("{n:08}{}", "x".repeat(1024 * 1024));
    redactor.learn_for_good("the-server's-own");
    redactor.learn("learned-once");
    redactor.learn("learned-twice");
    for n in 0..20 {
        redactor.learn(&large(n));
    }
    redactor.learn("learned-twice");
    for n in 20..40 {
        redactor.learn(&large(n));
    }
    assert_eq!(redactor.redact("learned-once"), "learned-once");
    assert_eq!(redactor.redact("learned-twice"), REDACTED);
    assert_eq!(redactor.redact("the-server's-own"), REDACTED);
    assert_eq!(redactor.redact(&large(39)), REDACTED);
}

#[test]
fn values_that_contain_begin_or_overlap_each_other_are_masked_whole() {
    let redactor = Redactor::default();
    for value in [
        "secret",
        "secret-and-more",
        "more-of-it",
        "secret-zzz",
        "\u{e4}\u{e4}\u{e4}",
    ] {
        redactor.learn(value);
    }
    for (text, masked) in [
        ("a secret-and-more b", "a [REDACTED] b"),
        ("a secret-and-more-of-it b", "a [REDACTED] b"),
        ("a secret-and-mor b", "a [REDACTED]-and-mor b"),
        ("secretsecret", "[REDACTED][REDACTED]"),
        ("\u{e4}\u{e4}\u{e4}\u{e4} secre", "[REDACTED] secre"),
    ] {
        assert_eq!(redactor.redact(text), masked, "{text}");
    }
}

#[test]
fn thousands_of_values_that_come_one_by_one_are_masked_at_once() {
    let redactor = Redactor::default();
    let started = std::time::Instant::now();
    for n in 0..20_000 {
        let value = format!("common-beginning-{n:08}");
        redactor.learn(&value);
        assert_eq!(redactor.redact(&format!("x {value} y")), "x [REDACTED] y");
    }
    // An index that is rebuilt for each takes minutes.
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
}

proptest::proptest! {
    #[test]
    fn no_value_survives_in_any_text(
        values in proptest::collection::vec("[ab\u{e4}]{6,9}", 1..8),
        text in "[ab\u{e4} ]{0,60}",
    ) {
        let redactor = Redactor::default();
        values.iter().for_each(|value| redactor.learn(value));
        let masked = redactor.redact(&text);
        for value in &values {
            proptest::prop_assert!(!masked.contains(value.as_str()), "{} in {}", value, masked);
        }
        let marks = values.iter().any(|value| text.contains(value.as_str()));
        proptest::prop_assert_eq!(marks, masked.contains(REDACTED));
    }

    #[test]
    fn others_secrets_change_nothing(
        own in proptest::collection::vec("[ab]{6,9}", 0..6),
        others in proptest::collection::vec("[ab]{6,9}", 0..6),
        text in "[ab ]{0,60}",
    ) {
        let (alone, among) = (Redactor::default(), Redactor::default());
        own.iter().for_each(|value| alone.learn_of(Uuid::nil(), value));
        own.iter().for_each(|value| among.learn_of(Uuid::nil(), value));
        others.iter().for_each(|value| among.learn_of(Uuid::max(), value));
        let expected = alone.redact_of(Uuid::nil(), &text);
        proptest::prop_assert_eq!(among.redact_of(Uuid::nil(), &text), expected);
    }
}
