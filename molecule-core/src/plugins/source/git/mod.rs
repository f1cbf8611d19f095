//! Plugins in the repositories of a git host. Nobody shows a credential, so what is
//! fetched is public.

mod latest;
mod listing;
mod redirect;
mod spec;
mod trouble;
mod work;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use molecule_hooks::{FetchRequest, FetchedPlugin, PluginRef, PluginSource, PluginSourceError};
use tokio::sync::Semaphore;

use self::spec::{Repository, Spec};
use self::trouble::Trouble;
use self::work::Work;
use super::reference::with_fragment;
use crate::git::{CommitId, RefList};

/// What asking for the names of a repository may take.
const LOOKUP_BOUND: Duration = Duration::from_secs(60);
/// Look-ups and fetches of one source that run at once; others wait. More than the server
/// fetches at once for requests and for starts together, so that the one does not wait for
/// the other here.
const MAX_AT_ONCE: usize = 32;
/// How often a fetch is begun anew because the repository moved meanwhile.
const ATTEMPTS: usize = 2;
/// How often a renamed repository is followed.
const MAX_REDIRECTS: usize = 3;
/// More names than this are not asked for one by one.
const MAX_NAMES: usize = 200;

/// Plugins in the public repositories of a git host, as
/// `<scheme>://<owner>/<repository>[#<revision>]`: the server's own `github`. A server of
/// your own can register another one for another host:
///
/// ```no_run
/// # use std::sync::Arc;
/// use molecule_core::{GitSource, Registry};
/// let registry = Registry::new();
/// let source = GitSource::new("gitea", "https://git.example.org", "/var/lib/molecule/fetches");
/// registry.register_source(Arc::new(source));
/// ```
///
/// Revisions: a tag or branch, `tag:<name>`, `tag:latest`, `sha:<40 or 64 digits>`, the digits,
/// or none for the default branch. A plugin is called like its repository.
pub struct GitSource {
    scheme: String,
    base: String,
    scratch: PathBuf,
    time: Duration,
    turns: Semaphore,
}

impl GitSource {
    /// A source that finds `<owner>/<repository>` at
    /// `<base_url>/<owner>/<repository>.git` and works below the folder `scratch`.
    /// Only `https` is spoken, unless the base URL begins with `http://`.
    pub fn new(
        scheme: impl Into<String>,
        base_url: impl AsRef<str>,
        scratch: impl Into<PathBuf>,
    ) -> Self {
        Self {
            scheme: scheme.into(),
            base: base_url.as_ref().trim_end_matches('/').to_owned(),
            scratch: scratch.into(),
            time: Duration::from_secs(300),
            turns: Semaphore::new(MAX_AT_ONCE),
        }
    }

    /// The same, with what one fetch may take instead of five minutes.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    async fn begin(&self) -> Result<Work, PluginSourceError> {
        let protocols = match self.base.starts_with("http://") {
            true => "http",
            false => "https",
        };
        Work::begin(self.scratch.clone(), protocols, self.time).await
    }

    /// One look-up. Renamed repositories are followed, and `url` with them.
    async fn list(
        &self,
        work: &Work,
        url: &mut String,
        names: &[String],
    ) -> Result<RefList, PluginSourceError> {
        for _ in 0..MAX_REDIRECTS {
            match work.list(url, names, LOOKUP_BOUND).await {
                Ok(output) => {
                    let list = RefList::parse(&output);
                    return list.map_err(|error| PluginSourceError::Failed(error.to_string()));
                }
                Err(Trouble::Redirected) => *url = redirect::follow(&self.base, url).await?,
                Err(trouble) => return Err(trouble.into()),
            }
        }
        Err(Trouble::Redirected.into())
    }

    /// What a revision means in a list that was made with its names.
    async fn meaning(
        &self,
        work: &Work,
        url: &str,
        list: &RefList,
        revision: &PluginRef,
    ) -> Result<Option<CommitId>, PluginSourceError> {
        Ok(match revision {
            PluginRef::Default => list.head().cloned(),
            PluginRef::Named(name) => list.tag(name).or_else(|| list.branch(name)).cloned(),
            PluginRef::Tag(name) => list.tag(name).cloned(),
            PluginRef::LatestTag => match latest::highest_release(list.tags()) {
                Some(commit) => Some(commit.clone()),
                None => {
                    let tags: BTreeSet<&CommitId> = list.tags().map(|(_, id)| id).collect();
                    let tags: Vec<&CommitId> = tags.into_iter().collect();
                    work.newest(url, &tags).await?
                }
            },
            PluginRef::Commit(id) => CommitId::parse(id),
            _ => None,
        })
    }

    /// Fetches what the spec means into the repository of `work`.
    async fn bring(
        &self,
        work: &Work,
        spec: &Spec,
        request: &FetchRequest<'_>,
    ) -> Result<CommitId, PluginSourceError> {
        let mut url = spec.repository.url(&self.base);
        let names = names_of(std::slice::from_ref(&spec.revision));
        let missing = || PluginSourceError::NotFound("there is no such revision".to_owned());
        let mut wanted = None;
        for _ in 0..ATTEMPTS {
            let commit = match (&spec.revision, &wanted) {
                (PluginRef::Commit(id), _) => CommitId::parse(id),
                (revision, _) => {
                    let list = self.list(work, &mut url, &names).await?;
                    self.meaning(work, &url, &list, revision).await?
                }
            };
            let commit = commit.ok_or_else(missing)?;
            if wanted.is_none() {
                work.initialise(&commit).await?;
            }
            wanted = Some(commit.clone());
            let mut fetched = work.fetch(&url, commit.as_str(), &request.limits).await;
            for _ in 0..MAX_REDIRECTS {
                if matches!(fetched, Err(Trouble::Redirected)) {
                    url = redirect::follow(&self.base, &url).await?;
                    fetched = work.fetch(&url, commit.as_str(), &request.limits).await;
                }
            }
            match fetched {
                // What an id names cannot be something else, unless it is no commit.
                Ok(()) => match work.commit_at(commit.as_str()).await? {
                    Some(found) if found == commit => return Ok(commit),
                    _ => return Err(missing()),
                },
                Err(Trouble::NotGivenOut) => {}
                Err(trouble) => return Err(trouble.into()),
            }
            // An older server gives out only what has a name.
            let list = self.list(work, &mut url, &[]).await?;
            let Some(name) = list.name_of(&commit) else {
                if spec.revision.is_immutable() {
                    return Err(missing());
                }
                continue;
            };
            work.fetch(&url, name, &request.limits).await?;
            if work.commit_at("FETCH_HEAD").await?.as_ref() == Some(&commit) {
                return Ok(commit);
            }
        }
        Err(PluginSourceError::Failed(
            "the repository gives another commit than it names".to_owned(),
        ))
    }

    /// Fetches what the spec means and writes its files to where the request wants them.
    async fn fetch_with(
        &self,
        work: &Work,
        spec: &Spec,
        request: &FetchRequest<'_>,
    ) -> Result<CommitId, PluginSourceError> {
        let commit = self.bring(work, spec, request).await?;
        work.check_out(&commit, request.destination, &request.limits)
            .await?;
        Ok(commit)
    }

    /// What revisions mean, in their order.
    async fn resolve_with(
        &self,
        work: &Work,
        mut url: String,
        refs: &[PluginRef],
    ) -> Result<Vec<Option<String>>, PluginSourceError> {
        let mut list = RefList::default();
        // A commit means itself, whatever the repository has.
        if !refs.iter().all(PluginRef::is_immutable) {
            list = self.list(work, &mut url, &names_of(refs)).await?;
        }
        let mut found = Vec::with_capacity(refs.len());
        let mut latest = None;
        for revision in refs {
            let commit = match (revision, &latest) {
                (PluginRef::LatestTag, Some(known)) => Option::clone(known),
                _ => self.meaning(work, &url, &list, revision).await?,
            };
            if *revision == PluginRef::LatestTag {
                latest = Some(commit.clone());
            }
            found.push(commit.map(|commit| commit.as_str().to_owned()));
        }
        Ok(found)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, PluginSourceError> {
        let turn = self.turns.acquire().await;
        turn.map_err(|_| PluginSourceError::Failed("the source is closed".to_owned()))
    }
}

#[async_trait]
impl PluginSource for GitSource {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn check(&self, spec: &str) -> Result<(), PluginSourceError> {
        Spec::parse(spec).map(drop)
    }

    fn is_pinned(&self, spec: &str) -> bool {
        spec.contains('#')
    }

    fn is_immutable(&self, spec: &str) -> bool {
        Spec::parse(spec).is_ok_and(|spec| spec.revision.is_immutable())
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        let spec = Spec::parse(request.spec)?;
        let _turn = self.turn().await?;
        let work = self.begin().await?;
        let fetched = self.fetch_with(&work, &spec, &request).await;
        work.end().await;
        let commit = fetched?;
        Ok(FetchedPlugin::new(spec.repository.name).at(commit.as_str()))
    }

    fn upstream(&self, spec: &str) -> Option<String> {
        let place = Spec::parse(spec).ok()?.repository;
        Some(format!("{}/{}", place.owner, place.name))
    }

    async fn resolve(
        &self,
        upstream: &str,
        refs: &[PluginRef],
    ) -> Result<Vec<Option<String>>, PluginSourceError> {
        let url = Repository::parse(upstream)?.url(&self.base);
        let _turn = self.turn().await?;
        let work = self.begin().await?;
        let found = self.resolve_with(&work, url, refs).await;
        work.end().await;
        found
    }

    fn pinned_to(&self, spec: &str, revision: &str) -> String {
        match PluginRef::of_fragment(&format!("sha:{revision}")) {
            Some(commit) => with_fragment(spec, &commit.to_fragment()),
            None => spec.to_owned(),
        }
    }
}

impl fmt::Debug for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitSource")
            .field("scheme", &self.scheme)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// The names that a look-up must ask for to know what revisions mean; none for all.
fn names_of(revisions: &[PluginRef]) -> Vec<String> {
    let mut names = BTreeSet::new();
    for revision in revisions {
        match revision {
            PluginRef::Default => {
                names.insert("HEAD".to_owned());
            }
            PluginRef::Named(name) | PluginRef::Tag(name) => {
                names.insert(format!("refs/tags/{name}"));
                names.insert(format!("refs/tags/{name}^{{}}"));
                if matches!(revision, PluginRef::Named(_)) {
                    names.insert(format!("refs/heads/{name}"));
                }
            }
            PluginRef::LatestTag => {
                names.insert("refs/tags/*".to_owned());
            }
            _ => {}
        }
    }
    match names.len() > MAX_NAMES {
        true => Vec::new(),
        false => names.into_iter().collect(),
    }
}
