//! What is left out of a tree: `.dockerignore` as the Docker client reads it, and other
//! lists that are written likewise.
//!
//! One pattern per line; `*` and `?` stay within a part of a path, `**` does not,
//! `[a-z]` is a class, `\` takes the meaning of the next character. A pattern also
//! covers what is below. `!` brings back; the last match counts.

use std::cell::Cell;

/// Longest file that is read.
pub(crate) const MAX_BYTES: u64 = 64 * 1024;
/// Most patterns.
const MAX_PATTERNS: usize = 1000;

/// How much work matching may be. What is hard for a pattern is for whoever wrote it to
/// say, so somebody must count.
#[derive(Debug)]
pub(crate) struct Effort(Cell<u64>);

impl Effort {
    /// So many comparisons.
    pub(crate) fn new(steps: u64) -> Self {
        Self(Cell::new(steps))
    }

    /// True when nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }

    /// Takes some of it; false when that was the last.
    fn spend(&self, steps: usize) -> bool {
        let left = self.0.get().saturating_sub(steps as u64);
        self.0.set(left);
        left > 0
    }
}

/// What is left out.
#[derive(Debug, Default)]
pub(crate) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    parts: Vec<Part>,
    brings_back: bool,
}

/// A part of a pattern: what stands between two slashes.
#[derive(Debug)]
enum Part {
    /// `**`
    Any,
    One(Vec<Token>),
}

impl Ignore {
    /// Reads the file; none when it has more patterns than anybody needs.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (brings_back, path) = match line.strip_prefix('!') {
                Some(path) => (true, path.trim()),
                None => (false, line),
            };
            let parts: Vec<Part> = clean(path).into_iter().map(Part::of).collect();
            if parts.is_empty() {
                continue;
            }
            patterns.push(Pattern { parts, brings_back });
            if patterns.len() > MAX_PATTERNS {
                return None;
            }
        }
        Some(Self { patterns })
    }

    /// Whether a path, relative to the root, is left out. Asks before every pattern
    /// whether to `stop`; then there is no answer.
    pub(crate) fn covers(&self, path: &str, stop: impl Fn() -> bool) -> Option<bool> {
        self.covers_within(&Effort::new(u64::MAX), path, stop)
    }

    /// As [`covers`](Self::covers), with an effort that many paths may share. There is no
    /// answer once it is spent.
    pub(crate) fn covers_within(
        &self,
        effort: &Effort,
        path: &str,
        stop: impl Fn() -> bool,
    ) -> Option<bool> {
        let path: Vec<Vec<char>> = path.split('/').map(|part| part.chars().collect()).collect();
        let mut covered = false;
        if stop() {
            return None;
        }
        for pattern in &self.patterns {
            if stop() {
                return None;
            }
            // Only a change of mind is worth looking.
            if pattern.brings_back == covered && pattern.matches_or_holds(&path, effort) {
                covered = !pattern.brings_back;
            }
        }
        (!effort.is_spent()).then_some(covered)
    }

    /// Whether something below a folder that is left out may still be wanted.
    pub(crate) fn brings_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.brings_back)
    }
}

impl Pattern {
    /// Whether the path or a folder above it matches.
    fn matches_or_holds(&self, path: &[Vec<char>], effort: &Effort) -> bool {
        (1..=path.len()).any(|end| matches_parts(&self.parts, &path[..end], effort))
    }
}

/// The parts of a pattern without empty ones, `.` and `..`.
fn clean(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

/// `**` is any number of parts. Only the last one needs another try: what an earlier
/// one could give up, the last can take.
fn matches_parts(pattern: &[Part], path: &[Vec<char>], effort: &Effort) -> bool {
    wildcard(
        pattern.len(),
        path.len(),
        |p| matches!(pattern[p], Part::Any),
        |p, at| match &pattern[p] {
            Part::Any => false,
            Part::One(tokens) => matches_part(tokens, &path[at], effort),
        },
        effort,
    )
}

impl Part {
    fn of(part: &str) -> Self {
        match part {
            "**" => Self::Any,
            part => Self::One(tokens(part)),
        }
    }
}

/// `*` is any number of characters.
fn matches_part(pattern: &[Token], text: &[char], effort: &Effort) -> bool {
    wildcard(
        pattern.len(),
        text.len(),
        |p| matches!(pattern[p], Token::Any),
        |p, at| effort.spend(pattern[p].cost()) && pattern[p].takes(text[at]),
        effort,
    )
}

/// The two levels work alike: some items of a pattern take one item each, the
/// others any number. Nothing matches any more once the effort is spent.
fn wildcard(
    pattern: usize,
    text: usize,
    is_star: impl Fn(usize) -> bool,
    takes: impl Fn(usize, usize) -> bool,
    effort: &Effort,
) -> bool {
    let (mut p, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text {
        if !effort.spend(1) {
            return false;
        }
        if p < pattern && is_star(p) {
            star = Some((p, at));
            p += 1;
        } else if p < pattern && takes(p, at) {
            p += 1;
            at += 1;
        } else if let Some((star_p, star_at)) = star {
            p = star_p + 1;
            at = star_at + 1;
            star = Some((star_p, at));
        } else {
            return false;
        }
    }
    (p..pattern).all(|p| effort.spend(1) && is_star(p))
}

#[derive(Debug)]
enum Token {
    Any,
    One,
    Char(char),
    Class(Vec<(char, char)>, bool),
}

impl Token {
    /// Comparisons that [`takes`](Self::takes) makes at most.
    fn cost(&self) -> usize {
        match self {
            Self::Class(ranges, _) => ranges.len(),
            _ => 0,
        }
    }

    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Class(ranges, negated) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        at += 1;
        found.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => {
                let escaped = chars.get(at).copied().unwrap_or('\\');
                at += 1;
                Token::Char(escaped)
            }
            '[' => match class(&chars[at..]) {
                Some((class, length)) => {
                    at += length;
                    class
                }
                None => Token::Char('['),
            },
            c => Token::Char(*c),
        });
    }
    found
}

/// A class without its opening bracket, and its length; none if it does not end.
fn class(chars: &[char]) -> Option<(Token, usize)> {
    let negated = matches!(chars.first(), Some('^' | '!'));
    let mut at = usize::from(negated);
    let mut ranges = Vec::new();
    let item = |at: &mut usize| {
        if chars.get(*at) == Some(&'\\') {
            *at += 1;
        }
        let c = chars.get(*at).copied();
        *at += 1;
        c
    };
    loop {
        if chars.get(at) == Some(&']') && !ranges.is_empty() {
            return Some((Token::Class(ranges, negated), at + 1));
        }
        let from = item(&mut at)?;
        let to = if chars.get(at) == Some(&'-') && chars.get(at + 1) != Some(&']') {
            at += 1;
            item(&mut at)?
        } else {
            from
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covered(file: &str, path: &str) -> bool {
        let ignore = Ignore::parse(file).unwrap();
        ignore.covers(path, || false).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_the_docker_client() {
        for (file, path, expected) in [
            ("node_modules", "node_modules", true),
            ("node_modules", "node_modules/a/b.js", true),
            ("node_modules", "src/node_modules", false),
            ("**/node_modules", "node_modules/a", true),
            ("**/node_modules", "src/x/node_modules/a", true),
            ("/dist/", "dist/a", true),
            ("./dist/../out", "out", true),
            ("*.md", "a.md", true),
            ("*.md", "docs/a.md", false),
            ("**/*.md", "docs/x/a.md", true),
            ("*/temp*", "some/temporary/x", true),
            ("*/temp*", "temp", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "keep/a", false),
            ("*\n!keep\nkeep/b", "keep/b", true),
            ("*\n!a/b", "a/c", true),
            ("# a\n\n   \n!x", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("\u{feff}a", "a", true),
            ("a\r\nb\r", "b", true),
            ("..", "a", false),
            ("[", "[", true),
        ] {
            assert_eq!(covered(file, path), expected, "{file:?} {path:?}");
        }
    }

    #[test]
    fn whoever_stops_gets_no_answer() {
        for file in ["", "a\nb"] {
            assert_eq!(Ignore::parse(file).unwrap().covers("x", || true), None);
        }
    }

    #[test]
    fn more_patterns_than_anybody_needs_are_refused() {
        assert!(Ignore::parse(&"a\n".repeat(MAX_PATTERNS)).is_some());
        assert!(Ignore::parse(&"a\n".repeat(MAX_PATTERNS + 1)).is_none());
    }

    #[test]
    fn patterns_that_are_hard_to_match_use_up_the_effort() {
        let path = "a".repeat(255);
        let class = format!("*[{}]*", "b".repeat(10_000));
        for hard in [
            format!("*{}b", "a".repeat(127)),
            format!("a{}c", "*".repeat(60_000)),
            format!("a{}", "?".repeat(60_000)),
            class,
        ] {
            let ignore = Ignore::parse(&hard).unwrap();
            let effort = Effort::new(1_000_000);
            let answers = (0..10_000).map(|_| ignore.covers_within(&effort, &path, || false));
            let answered = answers.take_while(Option::is_some).count();
            let some = &hard[..8];
            assert!(answered < 10_000 && effort.is_spent(), "{some}: {answered}");
        }
        // What everybody writes is far from it
        let ignore = Ignore::parse("**/*.bak\n**/tests/\n/docs/*.md\n").unwrap();
        let effort = Effort::new(1_000_000);
        for _ in 0..1000 {
            let covered = ignore.covers_within(&effort, "skills/review/SKILL.md", || false);
            assert_eq!(covered, Some(false));
        }
    }

    proptest! {
        #[test]
        fn any_pattern_and_any_path_have_an_answer(file in ".{0,80}", path in "[a-z/*.\\[\\]]{0,40}") {
            if let Some(ignore) = Ignore::parse(&file) {
                prop_assert!(ignore.covers(&path, || false).is_some());
            }
        }

        #[test]
        fn a_name_without_wildcards_covers_itself_and_what_is_below(
            name in "[a-z]{1,8}", below in "[a-z]{1,8}",
        ) {
            prop_assert!(covered(&name, &name));
            let longer = format!("{name}/{below}");
            prop_assert!(covered(&name, &longer));
            let back = format!("{name}\n!{name}");
            prop_assert!(!covered(&back, &longer));
        }

        #[test]
        fn many_stars_do_not_take_long(stars in 1usize..40) {
            let pattern = format!("{}b", "*a".repeat(stars));
            prop_assert!(!covered(&pattern, &"a".repeat(200)));
            let pattern = format!("{}b", "**/a/".repeat(stars));
            let path = vec!["a"; 60].join("/");
            prop_assert!(!covered(&pattern, &path));
        }
    }
}
