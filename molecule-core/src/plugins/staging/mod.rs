//! From a source to a checked tree on the disk of this server.

mod folder;
mod refusal;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use molecule_hooks::{
    FetchRequest, FetchedPlugin, PluginName, PluginSource, PluginSourceError, TreeLimits,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::folder::StagingFolder;
pub(super) use self::refusal::{INSTALL_FAILED, fetch_timed_out};
use self::refusal::{fetch_failed, invalid_spec, tree_refused};
use super::Plugins;
use super::pins::{self, MAX_STATEMENT_BYTES, Pins, STATEMENT_FILE};
use super::room::Room;
use super::signature::{self, MAX_SIGNATURE_BYTES, SignatureError, TrustedKey};
use super::source::{LOCAL, SourceRef};
use crate::config::{Config, PluginsConfig, SignaturePolicy};
use crate::error::{Error, Result};
use crate::tree::{self, Folder, SIGNATURE_FILE, Tree, TreeError};

/// Plugins that are fetched and checked at once; others wait for their turn.
const AT_ONCE: usize = 16;
/// Those of them that one workspace asked for.
const OF_ONE_WORKSPACE: usize = 4;
/// The same for workspaces that start, which have little time.
const AT_ONCE_FOR_STARTS: usize = 8;

/// Which plugin is wanted, and what is known about it already.
pub(super) struct StageRequest<'a> {
    pub(super) source: &'a SourceRef,
    pub(super) pins: Pins,
    /// The only name that will do.
    pub(super) expected_name: Option<&'a str>,
}

/// A plugin that was fetched and passed every check. Its tree goes with the last
/// reference to it.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) name: PluginName,
    pub(super) source: SourceRef,
    /// The exact revision, where the source has such a thing.
    pub(super) revision: Option<String>,
    pub(super) tree: Arc<Tree>,
}

/// What staging needs besides the sources.
pub(super) struct Staging {
    folder: Arc<StagingFolder>,
    turns: Semaphore,
    shares: Room,
    start_turns: Semaphore,
    keys: Vec<TrustedKey>,
}

/// A tree with what was read on the way.
struct Inspected {
    tree: Tree,
    statement: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
}

impl Staging {
    pub(super) fn new(config: &Config) -> Self {
        let keys = config.plugins.trusted_keys.iter();
        Self {
            folder: Arc::new(StagingFolder::below(&config.data_dir.0)),
            turns: Semaphore::new(AT_ONCE),
            shares: Room::new(AT_ONCE, OF_ONE_WORKSPACE),
            start_turns: Semaphore::new(AT_ONCE_FOR_STARTS),
            // Those that are none were refused with the configuration.
            keys: keys.filter_map(|key| TrustedKey::parse(key).ok()).collect(),
        }
    }

    /// Removes what servers left that live no more. Blocks.
    pub(super) fn sweep(&self) {
        self.folder.sweep();
    }

    /// A new empty folder.
    ///
    /// # Errors
    /// 500 `failed to create staging dir`.
    pub(super) async fn folder(&self) -> Result<Folder> {
        let folder = Arc::clone(&self.folder);
        let made = tokio::task::spawn_blocking(move || folder.make()).await;
        made.map_err(std::io::Error::other)
            .and_then(|made| made)
            .map_err(|error| Error::internal("failed to create staging dir", error))
    }

    /// A new empty file without a name, which goes when it is closed.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) async fn file(&self) -> std::io::Result<std::fs::File> {
        let folder = Arc::clone(&self.folder);
        let made = tokio::task::spawn_blocking(move || folder.file()).await;
        made.map_err(std::io::Error::other)?
    }
}

impl Plugins {
    /// Fetches a plugin and checks it: rows 5 to 15 of the table of answers. Dropping the
    /// future ends whatever is under way and removes what was fetched.
    ///
    /// # Errors
    /// Those of the table, and 422 for a tree with something in it that no tree may have,
    /// for a mutable source where the operator wants others, and for a signature.
    pub(super) async fn stage(&self, request: StageRequest<'_>) -> Result<Staged> {
        self.stage_in(&self.staging.turns, request).await
    }

    /// As [`stage`](Self::stage), for a request about a workspace, of which others of the
    /// same workspace may be in the way.
    pub(super) async fn stage_for(
        &self,
        workspace: Uuid,
        request: StageRequest<'_>,
    ) -> Result<Staged> {
        let _share = self.staging.shares.enter(workspace).await;
        self.stage(request).await
    }

    /// As [`stage`](Self::stage), for a workspace that starts: no request is in its way.
    pub(super) async fn stage_for_start(&self, request: StageRequest<'_>) -> Result<Staged> {
        self.stage_in(&self.staging.start_turns, request).await
    }

    async fn stage_in(&self, turns: &Semaphore, request: StageRequest<'_>) -> Result<Staged> {
        let (reference, config) = (request.source, &self.services.config.plugins);
        let source = self.sources.get(&reference.scheme).ok_or_else(|| {
            Error::invalid("failed to resolve plugin source")
                .with("available_schemes", self.sources.schemes())
        })?;
        let well_formed = || {
            let checked = source.check(&reference.spec);
            checked.map_err(|error| invalid_spec(reference, &error))
        };
        // A bad name is refused before anything else. Of other sources, whether they name
        // a revision comes first; what makes no sense to them is the client's mistake and
        // not their failure, so a malformed spec is a 400 and no 502.
        if reference.scheme == LOCAL {
            well_formed()?;
        }
        if !request.pins.skip_pinning {
            pins::check_pinning(config, source.as_ref(), reference)?;
        }
        well_formed()?;
        let limits = limits(config);
        let fetching = async {
            // Nobody closes it.
            let turn = turns.acquire().await.ok();
            let folder = self.staging.folder().await?;
            let fetched = fetch(source.as_ref(), reference, &folder, limits).await?;
            Ok::<_, Error>((turn, folder, fetched))
        };
        let fetched = tokio::time::timeout(config.install_timeout(), fetching).await;
        let (_turn, folder, fetched) = fetched.map_err(|_| fetch_timed_out(reference))??;
        let named = |error: Error| error.with("source", reference.to_string());
        let name = PluginName::parse(&fetched.name)
            .ok_or_else(|| named(Error::invalid("resolver returned invalid plugin name")))?;
        let inspected = self.inspect(folder, limits, reference).await?;
        pins::check_statement(&inspected.tree, inspected.statement.as_deref()).map_err(named)?;
        pins::check_pins(&inspected.tree, &request.pins).map_err(named)?;
        self.check_signature(&inspected, &request.pins, reference)
            .map_err(named)?;
        if let Some(wanted) = request.expected_name
            && wanted != name.as_str()
        {
            return Err(Error::invalid(format!(
                "source resolved to plugin \"{name}\" but URL requested \"{wanted}\""
            ))
            .with("resolved_name", name.as_str())
            .with("requested_name", wanted));
        }
        tracing::info!(
            plugin.name = %name,
            plugin.source = %reference,
            plugin.revision = fetched.revision.as_deref(),
            plugin.tree_sha256 = %inspected.tree.digest(),
            plugin.bytes = inspected.tree.bytes(),
            "plugin staged"
        );
        Ok(Staged {
            name,
            source: reference.clone(),
            revision: fetched.revision,
            tree: Arc::new(inspected.tree),
        })
    }

    /// Makes a tree of what was fetched.
    async fn inspect(
        &self,
        fetched: Folder,
        limits: TreeLimits,
        reference: &SourceRef,
    ) -> Result<Inspected> {
        let into = self.staging.folder().await?;
        let given_up = CancellationToken::new();
        let _guard = given_up.clone().drop_guard();
        let inspecting = tokio::task::spawn_blocking(move || {
            inspect(&fetched, into, limits, || !given_up.is_cancelled())
        });
        match inspecting.await {
            Ok(inspected) => inspected.map_err(|error| tree_refused(reference, error)),
            Err(error) => Err(Error::internal(INSTALL_FAILED, error)),
        }
    }

    fn check_signature(
        &self,
        inspected: &Inspected,
        pins: &Pins,
        reference: &SourceRef,
    ) -> Result<()> {
        let message = inspected.tree.digest().to_string();
        let verify = |text: &str| signature::verify(&self.staging.keys, text, message.as_bytes());
        let refused = |error: SignatureError| {
            Error::unprocessable(format!("signature check failed: {error}"))
        };
        // Whoever sends one wants it to be good, whatever the policy is.
        if let Some(given) = pins::given(pins.signature.as_deref()) {
            return verify(given).map_err(refused);
        }
        let policy = self.services.config.plugins.require_signature;
        let is_vetted = pins.vetted.as_ref() == Some(&message);
        let kept = pins.vetted_signature.as_deref().filter(|_| is_vetted);
        if policy == SignaturePolicy::Off || (is_vetted && kept.is_none()) {
            return Ok(());
        }
        // A key that is trusted no more does not vouch for what it signed either.
        let found = match (kept, &inspected.signature) {
            (Some(kept), _) => verify(kept),
            (None, None) => Err(SignatureError::Missing),
            (None, Some(bytes)) => std::str::from_utf8(bytes)
                .map_err(|_| SignatureError::Malformed)
                .and_then(verify),
        };
        match (found, policy) {
            (Ok(()), _) => Ok(()),
            (Err(error), SignaturePolicy::Enforce) => Err(refused(error)),
            (Err(error), _) => {
                tracing::warn!(plugin.source = %reference, %error, "plugin without a good signature");
                Ok(())
            }
        }
    }
}

/// What a plugin's tree may be, as the operator says.
pub(super) fn limits(config: &PluginsConfig) -> TreeLimits {
    let mut limits = TreeLimits::default().with_bytes(config.max_dir_bytes);
    limits.entries = config.max_entries;
    limits
}

/// Lets a source work, and stops it when it brings too much or panics.
async fn fetch(
    source: &dyn PluginSource,
    reference: &SourceRef,
    folder: &Folder,
    limits: TreeLimits,
) -> Result<FetchedPlugin> {
    let request = FetchRequest::new(&reference.spec, folder.path(), limits);
    let fetching = AssertUnwindSafe(async { source.fetch(request).await }).catch_unwind();
    let fetched = tokio::select! {
        biased;
        fetched = fetching => fetched.unwrap_or_else(|_| {
            Err(PluginSourceError::Failed("the source panicked".to_owned()))
        }),
        what = watch::outgrown(folder.path(), limits) => {
            Err(PluginSourceError::TooLarge(what.to_owned()))
        }
    };
    fetched.map_err(|error| fetch_failed(reference, error))
}

/// Copies what was fetched, as long as `wanted` says so, and reads what the checks need.
/// Blocks.
fn inspect(
    fetched: &Folder,
    into: Folder,
    limits: TreeLimits,
    wanted: impl Fn() -> bool,
) -> Result<Inspected, TreeError> {
    let read = |name: &str, max: u64| tree::read_regular(&fetched.path().join(name), max + 1);
    let statement = read(STATEMENT_FILE, MAX_STATEMENT_BYTES).ok().flatten();
    // One that cannot be read is there, and no good one.
    let signature = read(SIGNATURE_FILE, MAX_SIGNATURE_BYTES as u64);
    let signature = signature.unwrap_or_else(|_| Some(Vec::new()));
    let tree = Tree::copy_while(fetched.path(), into, &limits, wanted)?;
    Ok(Inspected {
        tree,
        statement,
        signature,
    })
}
