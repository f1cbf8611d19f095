//! How long a bench may take.

use std::time::Duration;

/// Read from the command line and the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// `cargo bench`.
    Full,
    /// `cargo bench -- --quick`, or `MOLECULE_BENCH_QUICK=1`.
    Quick,
    /// Without `--bench`, as in `cargo test --benches`: just long enough to see
    /// that it works.
    Smoke,
}

impl Length {
    /// What the caller of this process wants.
    pub fn wanted() -> Self {
        let has = |name: &str| std::env::args().any(|argument| argument == name);
        if has("--quick") || std::env::var("MOLECULE_BENCH_QUICK").is_ok_and(|v| v == "1") {
            Self::Quick
        } else if has("--bench") {
            Self::Full
        } else {
            Self::Smoke
        }
    }

    /// How many rounds of what duration.
    pub fn rounds(self) -> (usize, Duration) {
        match self {
            Self::Full => (11, Duration::from_millis(400)),
            Self::Quick => (5, Duration::from_millis(200)),
            Self::Smoke => (1, Duration::from_millis(50)),
        }
    }
}
