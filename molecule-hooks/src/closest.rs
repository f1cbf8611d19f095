//! "Did you mean …?" for names that people type.

/// Longer texts are no misspelled names; comparing them would only take time.
const LONGEST: usize = 64;

/// The one of `known` that `typed` was probably meant to be: at most one letter in
/// three is wrong, missing, too much or changed places with its neighbour, and at most
/// three are. Of equally close ones the first.
pub fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = folded(typed);
    if letters.len() > LONGEST {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        let other = folded(name);
        let allowed = (letters.len().max(other.len()) / 3).min(3);
        if other.len() > LONGEST || letters.len().abs_diff(other.len()) > allowed {
            continue;
        }
        let far = distance(&letters, &other);
        if far <= allowed && best.is_none_or(|(least, _)| far < least) {
            best = Some((far, name));
        }
    }
    best.map(|(_, name)| name)
}

/// `; did you mean "store"?`, or nothing.
pub fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(typed, known)
        .map(|name| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}

/// Neither the case nor the kind of hyphen is a mistake worth counting.
fn folded(text: &str) -> Vec<char> {
    let text = text.chars().map(|c| if c == '_' { '-' } else { c });
    text.flat_map(char::to_lowercase).collect()
}

/// Letters to insert, remove, replace or swap with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let change = last[j] + usize::from(x != y);
            let mut least = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                let before: &Vec<usize> = &before;
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] = [
        "store",
        "corporate-proxy",
        "login2",
        "timeout_secs",
        "url",
        "x",
    ];

    #[test]
    fn what_was_probably_meant_is_found() {
        for (typed, meant) in [
            ("sotre", "store"),
            ("Store", "store"),
            ("stre", "store"),
            ("corporate_proxy", "corporate-proxy"),
            ("corporate-proxi", "corporate-proxy"),
            ("login", "login2"),
            ("timeout_sec", "timeout_secs"),
            ("timeouts_secs", "timeout_secs"),
            ("ulr", "url"),
        ] {
            assert_eq!(closest(typed, KNOWN), Some(meant), "{typed}");
        }
        assert_eq!(did_you_mean("sotre", KNOWN), "; did you mean \"store\"?");
    }

    #[test]
    fn what_means_something_else_is_left_alone() {
        let long = "store".repeat(100);
        for typed in ["", "y", "github", "restoration", "port", &long] {
            assert_eq!(closest(typed, KNOWN), None, "{typed}");
        }
        assert_eq!(did_you_mean("github", KNOWN), "");
    }

    proptest::proptest! {
        #[test]
        fn a_distance_is_the_same_both_ways_and_never_more_than_the_longer(a in ".{0,12}", b in ".{0,12}") {
            let (a, b) = (folded(&a), folded(&b));
            let far = distance(&a, &b);
            proptest::prop_assert_eq!(far, distance(&b, &a));
            proptest::prop_assert!(far <= a.len().max(b.len()));
            proptest::prop_assert_eq!(far == 0, a == b);
        }
    }
}
