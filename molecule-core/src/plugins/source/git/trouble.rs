//! What git's complaints mean.

use molecule_hooks::{PluginSourceError, redact_token_shapes};

use crate::git::GitError;

/// Longest complaint that is passed on to the log, in characters.
const MAX_CHARS: usize = 400;

/// Why a run failed, as far as something follows from it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server gives out no commit by its id, or does not have it.
    NotGivenOut,
    /// The repository is said to be elsewhere.
    Redirected,
    /// Nothing else to try.
    Final(PluginSourceError),
}

impl From<GitError> for Trouble {
    fn from(error: GitError) -> Self {
        let said = match error {
            GitError::Failed(said) => said,
            error => return Self::Final(without_words(&error)),
        };
        let folded = said.to_lowercase();
        let says = |text: &str| folded.contains(text);
        if says("not our ref") || says("unadvertised object") {
            return Self::NotGivenOut;
        }
        if ["301", "302", "303", "307", "308"]
            .iter()
            .any(|code| folded.contains(&format!("returned error: {code}")))
        {
            return Self::Redirected;
        }
        // What a private repository and one that does not exist look like to a stranger.
        let missing = says("repository not found")
            || says("could not find remote branch")
            || (says("remote branch") && says("not found"))
            || says("could not read username")
            || (says("fatal: repository '") && says("' not found"))
            || says("returned error: 404");
        let said = shown(&said);
        Self::Final(match missing {
            true => PluginSourceError::NotFound(said),
            false => PluginSourceError::Failed(said),
        })
    }
}

impl From<Trouble> for PluginSourceError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotGivenOut => {
                Self::NotFound("the repository does not have this commit".to_owned())
            }
            Trouble::Redirected => Self::Failed("the git host sends somewhere else".to_owned()),
            Trouble::Final(error) => error,
        }
    }
}

impl From<PluginSourceError> for Trouble {
    fn from(error: PluginSourceError) -> Self {
        Self::Final(error)
    }
}

fn without_words(error: &GitError) -> PluginSourceError {
    let failed = |text: &str| PluginSourceError::Failed(text.to_owned());
    match error {
        GitError::Missing => failed("there is no git program in the PATH of this server"),
        GitError::Io(kind) => PluginSourceError::Failed(format!("git cannot be run ({kind})")),
        GitError::Failed(_) => failed("git failed"),
        GitError::TimedOut => PluginSourceError::TimedOut("git did not end in time".to_owned()),
        GitError::Cancelled => failed("cancelled"),
        GitError::NoRoom => PluginSourceError::TooLarge("the repository sends too much".to_owned()),
        GitError::TooMuchOutput => failed("the repository has more names than are read"),
    }
}

/// One bounded line for the log.
fn shown(said: &str) -> String {
    let redacted = redact_token_shapes(said);
    let plain = redacted
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(said: &str) -> Trouble {
        Trouble::from(GitError::Failed(said.to_owned()))
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_broken() {
        for said in [
            "remote: Repository not found. | fatal: repository 'https://h/a/b.git/' not found",
            "fatal: repository 'https://h/a/b.git/' not found",
            "warning: Could not find remote branch v9 to clone.",
            "fatal: Remote branch v9 not found in upstream origin",
            "fatal: could not read Username for 'https://h': terminal prompts disabled",
        ] {
            let trouble = found(said);
            let missing = matches!(trouble, Trouble::Final(PluginSourceError::NotFound(_)));
            assert!(missing, "{said}: {trouble:?}");
        }
        for said in [
            "fatal: unable to access 'https://h/': Could not resolve host: h",
            "fatal: unable to access 'https://h/': The requested URL returned error: 503",
            "fatal: unable to access 'https://h/': The requested URL returned error: 403",
            "",
        ] {
            let trouble = found(said);
            let broken = matches!(trouble, Trouble::Final(PluginSourceError::Failed(_)));
            assert!(broken, "{said}: {trouble:?}");
        }
    }

    #[test]
    fn a_refused_commit_and_a_redirect_can_be_tried_otherwise() {
        let refused = "fatal: remote error: upload-pack: not our ref 0123";
        assert!(matches!(found(refused), Trouble::NotGivenOut));
        let older = "error: Server does not allow request for unadvertised object 0123";
        assert!(matches!(found(older), Trouble::NotGivenOut));
        let moved = "fatal: unable to access 'https://h/a': The requested URL returned error: 301";
        assert!(matches!(found(moved), Trouble::Redirected));
    }

    #[test]
    fn a_complaint_in_the_log_is_short_and_has_no_token() {
        let token = format!("ghp_{}", "a".repeat(36));
        let Trouble::Final(error) = found(&format!("{token}\u{1b}[0m {}", "x".repeat(1000))) else {
            panic!("it is final");
        };
        let text = error.to_string();
        assert!(!text.contains(&token) && !text.contains('\u{1b}'), "{text}");
        assert!(text.chars().count() <= MAX_CHARS, "{text}");
    }
}
