//! Where workspace plugins come from.
//!
//! A *plugin* is a directory of skills and rules that the server delivers into a
//! workspace. Its source is a text `scheme://spec`; the scheme chooses a
//! [`PluginSource`]. The server brings `local` and `github`; a hook crate can bring
//! more with [`register_plugin_source!`](crate::register_plugin_source).

use std::fmt;
use std::path::Path;

/// Longest name of a plugin, in bytes.
pub const MAX_PLUGIN_NAME_BYTES: usize = 128;

/// The install name of a plugin, its only identity: a letter or digit, then letters,
/// digits, `.`, `_` and `-`, without `..`, at most [`MAX_PLUGIN_NAME_BYTES`].
///
/// ```
/// use molecule_hooks::PluginName;
/// assert!(PluginName::parse("molecule-careful-bash").is_some());
/// for name in ["", ".", "..", "a/b", "a..b", "a b", "$(id)", ".staging"] {
///     assert!(PluginName::parse(name).is_none(), "{name}");
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(String);

impl PluginName {
    /// The name, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let valid = text.len() <= MAX_PLUGIN_NAME_BYTES
            && text
                .bytes()
                .next()
                .is_some_and(|first| first.is_ascii_alphanumeric())
            && text.bytes().all(plain)
            && !text.contains("..");
        valid.then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for PluginName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// What a plugin's tree may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files and folders together.
    pub entries: usize,
    /// Folders inside each other.
    pub depth: usize,
    /// Bytes of the name of one file or folder.
    pub name_bytes: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self {
            bytes: 100 * 1024 * 1024,
            entries: 20_000,
            depth: 32,
            name_bytes: 255,
        }
    }
}

impl TreeLimits {
    /// The same with another number of bytes.
    #[must_use]
    pub fn with_bytes(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }
}

/// A revision of an upstream that somebody follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PluginRef {
    /// What the upstream calls its default.
    Default,
    /// A tag, else a branch, of this name.
    Named(String),
    /// The tag of this name.
    Tag(String),
    /// The highest release: the highest semantic version without pre-releases, else
    /// the newest tag.
    LatestTag,
    /// Exactly this commit: 40 lower-case hexadecimal digits, or 64 in a repository that
    /// names its objects by SHA-256. Never moves.
    Commit(String),
}

/// Longest fragment that names a revision, in bytes.
pub const MAX_FRAGMENT_BYTES: usize = 255;

impl PluginRef {
    /// What the fragment of a spec means, the text behind its `#`: `tag:latest`,
    /// `tag:<name>`, `sha:<40 digits>`, 40 digits alone (or 64), or the name of a tag or
    /// branch.
    /// `None` when no repository can have such a revision.
    ///
    /// ```
    /// use molecule_hooks::PluginRef;
    /// let commit = "0123456789abcdef0123456789abcdef01234567";
    /// for (fragment, meant) in [
    ///     ("v1.2.0", PluginRef::Named("v1.2.0".into())),
    ///     ("tag:v1.2.0", PluginRef::Tag("v1.2.0".into())),
    ///     ("tag:latest", PluginRef::LatestTag),
    ///     (commit, PluginRef::Commit(commit.into())),
    ///     ("sha:0123456789ABCDEF0123456789ABCDEF01234567", PluginRef::Commit(commit.into())),
    /// ] {
    ///     assert_eq!(PluginRef::of_fragment(fragment), Some(meant), "{fragment}");
    /// }
    /// let long = "0123456789abcdef".repeat(4);
    /// assert_eq!(PluginRef::of_fragment(&long), Some(PluginRef::Commit(long)));
    /// for fragment in ["", "-x", "a b", "a..b", "sha:abc", "tag:", "a:b", "x.lock", "$(id)"] {
    ///     assert_eq!(PluginRef::of_fragment(fragment), None, "{fragment}");
    /// }
    /// ```
    pub fn of_fragment(fragment: &str) -> Option<Self> {
        if let Some(digits) = fragment.strip_prefix("sha:") {
            return commit_id(digits).map(Self::Commit);
        }
        if let Some(name) = fragment.strip_prefix("tag:") {
            return match name {
                "latest" => Some(Self::LatestTag),
                name => is_ref_name(name).then(|| Self::Tag(name.to_owned())),
            };
        }
        match commit_id(fragment) {
            Some(id) => Some(Self::Commit(id)),
            None => is_ref_name(fragment).then(|| Self::Named(fragment.to_owned())),
        }
    }

    /// The fragment that means this: the inverse of [`of_fragment`](Self::of_fragment);
    /// empty for [`Default`](Self::Default).
    pub fn to_fragment(&self) -> String {
        match self {
            Self::Default => String::new(),
            Self::Named(name) => name.clone(),
            Self::Tag(name) => format!("tag:{name}"),
            Self::LatestTag => "tag:latest".to_owned(),
            Self::Commit(id) => format!("sha:{id}"),
        }
    }

    /// True when it can never mean another revision.
    pub fn is_immutable(&self) -> bool {
        matches!(self, Self::Commit(_))
    }
}

/// 40 or 64 hexadecimal digits, in lower case.
fn commit_id(text: &str) -> Option<String> {
    let digits = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| text.to_ascii_lowercase())
}

/// Whether a tag or branch can be called so, and no program can take it for an option,
/// a pattern or a range. Stricter than git.
fn is_ref_name(name: &str) -> bool {
    let first = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.');
    let plain = |c: u8| first(c) || matches!(c, b'/' | b'-');
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && !part.ends_with(".lock")
    };
    name.len() <= MAX_FRAGMENT_BYTES
        && name.bytes().next().is_some_and(first)
        && name.bytes().all(plain)
        && !name.contains("..")
        && name.split('/').all(part)
}

/// What to fetch.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct FetchRequest<'a> {
    /// What stands behind `scheme://`.
    pub spec: &'a str,
    /// An empty folder that belongs to the caller; the tree goes in here. Whatever is
    /// in it after an error or a cancelled call is removed by the caller.
    pub destination: &'a Path,
    /// What the tree may be. The server checks the result again, measures
    /// `destination` while the source works and gives up when it is too large, so a
    /// source need not, but should, stop early.
    pub limits: TreeLimits,
}

impl<'a> FetchRequest<'a> {
    /// A request; for tests and for the server.
    pub fn new(spec: &'a str, destination: &'a Path, limits: TreeLimits) -> Self {
        Self {
            spec,
            destination,
            limits,
        }
    }
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchedPlugin {
    /// Its install name.
    pub name: String,
    /// The exact revision, if the source has such a thing: a commit id, a digest.
    pub revision: Option<String>,
}

impl FetchedPlugin {
    /// A plugin without a revision.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            revision: None,
        }
    }

    /// The same with a revision.
    #[must_use]
    pub fn at(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }
}

/// Why a source could not do what it was asked. Texts are for the log: they never
/// reach a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginSourceError {
    /// The spec makes no sense to this source.
    #[error("invalid spec: {0}")]
    InvalidSpec(String),
    /// There is no such plugin, repository or revision.
    #[error("not found: {0}")]
    NotFound(String),
    /// The tree is larger than the limits of the request.
    #[error("too large: {0}")]
    TooLarge(String),
    /// The tree has something in it that no plugin may have: a link, a device, a name
    /// that leads out of it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// It did not end in time.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// One way to obtain plugins. Shared by all requests of a server, called concurrently.
///
/// What follows the scheme, the *spec*, is stored, logged and shown to everybody who may
/// see a workspace: no secret belongs there. A source gets its credentials from its
/// configuration.
///
/// Lifecycle: linked, built once at start-up, then called. Dropping the future of a
/// call cancels it: the source stops what it started.
#[async_trait::async_trait]
pub trait PluginSource: Send + Sync + 'static {
    /// The scheme it answers to: a letter, then letters, digits, `+`, `.`, `-`. Compared
    /// with case.
    fn scheme(&self) -> &str;

    /// Checks a spec without any I/O, before anything else is done.
    ///
    /// # Errors
    /// [`PluginSourceError::InvalidSpec`].
    fn check(&self, spec: &str) -> Result<(), PluginSourceError>;

    /// True when the spec names a revision, as `#v1.2.0` does: the server refuses
    /// others unless the operator allows them. Sources without revisions are always
    /// pinned.
    fn is_pinned(&self, _spec: &str) -> bool {
        true
    }

    /// True when the spec can never mean other bytes tomorrow.
    fn is_immutable(&self, _spec: &str) -> bool {
        false
    }

    /// Puts the tree of the plugin into [`FetchRequest::destination`].
    ///
    /// # Errors
    /// [`PluginSourceError`].
    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError>;

    /// Whom to ask for newer revisions of this spec: specs with the same answer share
    /// one [`resolve`](Self::resolve). `None`: there is no upstream to follow.
    fn upstream(&self, _spec: &str) -> Option<String> {
        None
    }

    /// The revisions that `refs` mean at `upstream` now, in the order of `refs`; `None`
    /// for one that does not exist (any more). One look-up for all of them.
    ///
    /// # Errors
    /// [`PluginSourceError`] when the upstream could not be asked.
    async fn resolve(
        &self,
        _upstream: &str,
        refs: &[PluginRef],
    ) -> Result<Vec<Option<String>>, PluginSourceError> {
        Ok(vec![None; refs.len()])
    }

    /// The spec that means exactly this revision of what `spec` means.
    fn pinned_to(&self, spec: &str, _revision: &str) -> String {
        spec.to_owned()
    }
}
