//! Which part of an archive a client wants.

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plugins) enum Part {
    /// Everything: nothing else was asked for, or nothing that we serve in parts.
    Whole,
    /// These bytes; never none.
    Bytes(Range<u64>),
    /// What is not there.
    Unsatisfiable,
}

/// Reads a `Range` header for something of `length` bytes. Of several ranges, other
/// units and what is no range at all, all of it is sent, as the standard allows.
pub(in crate::plugins) fn part(header: Option<&str>, length: u64) -> Part {
    let Some(spec) = header.and_then(of_bytes) else {
        return Part::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Part::Whole;
    };
    let range = match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if first > last => return Part::Whole,
        (Some(Some(first)), Some(last)) => {
            let end = last.map_or(length, |last| last.saturating_add(1).min(length));
            first..end
        }
        // So many from the end.
        (Some(None), Some(Some(count))) => length.saturating_sub(count)..length,
        _ => return Part::Whole,
    };
    match range.is_empty() {
        true => Part::Unsatisfiable,
        false => Part::Bytes(range),
    }
}

fn of_bytes(header: &str) -> Option<&str> {
    let (unit, spec) = header.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(spec)
}

/// Digits, or nothing; the outer `None` for anything else. More than fits is the most
/// that fits.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

/// Whether an `If-None-Match` or `If-Match` list holds this tag, compared without regard
/// to weakness.
pub(in crate::plugins) fn lists(header: &str, tag: &str) -> bool {
    let mut tags = header.split(',').map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges_are_served_and_the_rest_whole() {
        for (header, expected) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=0-", Part::Bytes(0..10)),
            ("Bytes = 2 - 4", Part::Bytes(2..5)),
            ("bytes=9-99999999999999999999999", Part::Bytes(9..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=4-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=--1", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 10), expected, "{header}");
        }
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Unsatisfiable);
    }

    #[test]
    fn a_tag_is_found_in_its_list() {
        for (header, found) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\" , \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(lists(header, "\"a\""), found, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_nor_outside(header in "(bytes=)?[0-9\\-, ]{0,40}", length in any::<u64>()) {
            if let Part::Bytes(range) = part(Some(&header), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
