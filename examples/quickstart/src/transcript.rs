//! The lines people read.

use std::io::Write as _;

/// Longest label; everything after it lines up.
const LABEL_WIDTH: usize = 10;

/// One thing that was checked and is right. The error is a closed standard
/// output, which ends the demonstration instead of panicking.
pub(crate) fn done(label: &str, text: &str) -> anyhow::Result<()> {
    line(&format!("✓ {label:LABEL_WIDTH$} {text}"))
}

/// A line of its own.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Enough of a token to recognise it, never enough to use it: the part up to the
/// last hyphen and two characters of the rest.
pub(crate) fn recognisable(token: &str) -> String {
    let public = token.rfind('-').map_or(0, |at| at + 1);
    let shown: String = token.chars().take(public + 2).collect();
    format!("{shown}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognised_and_not_given_away() {
        assert_eq!(recognisable("demo-12-3f00aa11bb22cc33"), "demo-12-3f…");
        assert_eq!(recognisable("ghs_0123456789"), "gh…");
        assert_eq!(recognisable(""), "…");
    }
}
