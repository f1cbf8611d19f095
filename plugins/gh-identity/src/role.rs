/// The role as it appears on GitHub: trimmed, without control characters, each
/// hyphen-separated segment with its first letter in upper case. `pmm-lead`
/// becomes `Pmm-Lead`. Works on characters, so that `élan` becomes `Élan`.
pub(crate) fn sanitise(role: &str) -> String {
    let visible: String = role.chars().filter(|c| !c.is_control()).collect();
    visible
        .trim()
        .split('-')
        .map(capitalise)
        .collect::<Vec<_>>()
        .join("-")
}

fn capitalise(segment: &str) -> String {
    let mut chars = segment.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::sanitise;

    #[test]
    fn every_segment_gets_a_capital_by_character() {
        for (role, expected) in [
            ("pmm-lead", "Pmm-Lead"),
            ("  pmm-lead \n", "Pmm-Lead"),
            ("QA", "QA"),
            ("élan-ökonom", "Élan-Ökonom"),
            ("日本-lead", "日本-Lead"),
            ("a--b-", "A--B-"),
            ("-", "-"),
            ("front end", "Front end"),
            ("a\u{1b}[31m\r\nb", "A[31mb"),
            (" \t ", ""),
            ("", ""),
        ] {
            assert_eq!(sanitise(role), expected, "{role:?}");
        }
    }
}
