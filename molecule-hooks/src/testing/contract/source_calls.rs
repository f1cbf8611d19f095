use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::plugin_source::{
    FetchRequest, FetchedPlugin, PluginName, PluginRef, PluginSource, PluginSourceError, TreeLimits,
};

use super::fence::{Ended, Fence};
use super::findings::Findings;
use super::folder::{self, Folder, Tree};
use super::hostile::hostile_specs;
use super::io::Trap;
use super::secrets::Secrets;
use super::source::PluginSourceContract;

/// How many fetches run at once.
const AT_ONCE: usize = 8;

/// What a fetch brought.
#[derive(PartialEq)]
struct Brought {
    plugin: FetchedPlugin,
    tree: Tree,
    /// What is there beside the folder that it was given.
    strays: Vec<String>,
}

/// Checks everything that happens after the source was built.
pub(super) async fn check(
    contract: &PluginSourceContract,
    source: &Arc<dyn PluginSource>,
    fence: &Fence,
    secrets: &Secrets,
    findings: &mut Findings,
) {
    let mut calls = Calls {
        source,
        fence,
        secrets,
        findings,
    };
    calls.check_hostile_specs();
    calls.check_io(contract.spec.as_ref().map(|(spec, _)| spec.as_str()));
    for spec in &contract.invalid {
        let accepted = calls.source.check(spec).is_ok();
        calls.findings.require("spec-accepted", !accepted, || {
            format!("it accepts {spec:?}, which makes no sense")
        });
    }
    for spec in &contract.missing {
        calls.check_missing(spec).await;
    }
    if let Some((spec, name)) = &contract.spec {
        calls.check_spec(spec, name).await;
    }
}

struct Calls<'a> {
    source: &'a Arc<dyn PluginSource>,
    fence: &'a Fence,
    secrets: &'a Secrets,
    findings: &'a mut Findings,
}

/// How one fetch ended.
enum Attempt {
    Brought(Box<Brought>),
    Refused(PluginSourceError),
    Panicked,
    Late,
}

impl Calls<'_> {
    fn check_hostile_specs(&mut self) {
        self.findings.note("refused-otherwise", Ok(()));
        for spec in hostile_specs() {
            let looked = catch_unwind(AssertUnwindSafe(|| look(self.source, &spec)));
            let shown: String = spec.chars().take(40).collect();
            self.findings.require("check-panics", looked.is_ok(), || {
                format!("the spec {shown:?} makes it panic")
            });
            if let Ok(Err(error)) = looked {
                self.note_error(&error);
                let good = matches!(error, PluginSourceError::InvalidSpec(_));
                self.findings.require("refused-otherwise", good, || {
                    format!("check must refuse {shown:?} with InvalidSpec")
                });
            }
        }
    }

    fn check_io(&mut self, valid: Option<&str>) {
        let trap = Trap::new();
        let mut specs = trap.texts();
        specs.extend(valid.map(str::to_owned));
        self.findings.note("check-does-io", Ok(()));
        for spec in &specs {
            let did = trap.spring(|| drop(look(self.source, spec)));
            self.findings.require("check-does-io", did.is_none(), || {
                format!("it {} when it looks at a text", did.unwrap_or_default())
            });
        }
    }

    async fn check_missing(&mut self, spec: &str) {
        let attempt = self.fetch(spec, TreeLimits::default()).await;
        let told = matches!(attempt, Attempt::Refused(PluginSourceError::NotFound(_)));
        self.findings.require("missing-not-told", told, || {
            format!("{spec:?} is not there, which must be a NotFound")
        });
    }

    async fn check_spec(&mut self, spec: &str, name: &str) {
        if let Err(error) = self.source.check(spec) {
            let text = self.secrets.hide(error.to_string());
            self.findings.require("spec-refused", false, || text);
            return;
        }
        self.findings.note("spec-refused", Ok(()));
        let first = match self.fetch(spec, TreeLimits::default()).await {
            Attempt::Brought(brought) => *brought,
            Attempt::Refused(error) => {
                let text = self.secrets.hide(error.to_string());
                return self.findings.require("fetch-failed", false, || text);
            }
            Attempt::Panicked | Attempt::Late => return,
        };
        self.findings.note("fetch-failed", Ok(()));
        let Brought {
            plugin,
            tree,
            strays,
        } = &first;
        let good = plugin.name == name && PluginName::parse(&plugin.name).is_some();
        self.findings.require("bad-name", good, || {
            format!(
                "it calls the plugin {:?}, expected was {name:?}",
                plugin.name
            )
        });
        let odd = tree.iter().find(|(_, content)| content.is_none());
        self.findings.require("unsafe-tree", odd.is_none(), || {
            let name = odd.map(|(name, _)| name.as_str()).unwrap_or_default();
            format!("{name:?} is neither a file nor a folder")
        });
        self.findings
            .require("writes-outside", strays.is_empty(), || {
                format!("it left {strays:?} beside the folder")
            });
        if self.fence.is_blocked() {
            return;
        }
        let again = self.fetch(spec, TreeLimits::default()).await;
        self.findings
            .require("not-repeatable", is_same(&again, &first), || {
                "a second fetch fails or brings something else".to_owned()
            });
        self.check_concurrent(spec, &first).await;
        self.check_dropped(spec, &first).await;
        self.check_limits(spec).await;
        self.check_upstream(spec, plugin.revision.as_deref()).await;
    }

    async fn check_concurrent(&mut self, spec: &str, first: &Brought) {
        let calls = (0..AT_ONCE).map(|_| call(self.source, spec, TreeLimits::default()));
        let ended = self.fence.run_all(calls.collect::<Vec<_>>()).await;
        let same =
            |ended: &Ended<_>| matches!(ended, Ended::Returned(Ok(brought)) if brought == first);
        let good = ended.iter().filter(|ended| same(ended)).count();
        self.findings
            .require("not-concurrent", good == AT_ONCE, || {
                format!(
                    "{} of {AT_ONCE} fetches at once fail or bring something else",
                    AT_ONCE - good
                )
            });
    }

    async fn check_dropped(&mut self, spec: &str, first: &Brought) {
        for pause in [0, 1, 20] {
            let call = call(self.source, spec, TreeLimits::default());
            let dropped = async move {
                // Dropped at the latest when the time is over, wherever it is then.
                let _ = tokio::time::timeout(Duration::from_millis(pause), call).await;
            };
            self.fence.run(dropped).await;
        }
        let after = self.fetch(spec, TreeLimits::default()).await;
        self.findings
            .require("not-cancel-safe", is_same(&after, first), || {
                "after a fetch that was dropped half-way, the next one fails or brings something else"
                    .to_owned()
            });
    }

    async fn check_limits(&mut self, spec: &str) {
        let mut limits = TreeLimits::default().with_bytes(0);
        (limits.entries, limits.depth, limits.name_bytes) = (0, 0, 0);
        let attempt = self.fetch(spec, limits).await;
        let good = match attempt {
            Attempt::Refused(error) => matches!(error, PluginSourceError::TooLarge(_)),
            // The server notices itself.
            Attempt::Brought(_) => true,
            Attempt::Panicked | Attempt::Late => false,
        };
        self.findings.require("limits-misnamed", good, || {
            "a tree over the limits must be a TooLarge".to_owned()
        });
    }

    async fn check_upstream(&mut self, spec: &str, revision: Option<&str>) {
        if let Some(revision) = revision {
            let pinned = self.source.pinned_to(spec, revision);
            let good = self.source.check(&pinned).is_ok() && self.source.is_pinned(&pinned);
            self.findings.require("pinned-refused", good, || {
                format!("it pins {spec:?} to {pinned:?}, which it refuses or does not call pinned")
            });
        }
        let Some(upstream) = self.source.upstream(spec) else {
            return;
        };
        let refs = [
            PluginRef::Default,
            PluginRef::LatestTag,
            PluginRef::Tag("no-such-tag-7f3a91c2".to_owned()),
        ];
        let (source, asked) = (Arc::clone(self.source), refs.len());
        let call = async move { source.resolve(&upstream, &refs).await };
        let ended = self.fence.run(call).await;
        let id = match ended {
            Ended::Returned(Ok(found)) => {
                let findings = &mut *self.findings;
                findings.require("resolve-miscounts", found.len() == asked, || {
                    format!("asked for {asked} revisions, it answers {}", found.len())
                });
                let invented = found.get(asked - 1).and_then(Option::as_deref);
                findings.require("resolve-invents", invented.is_none(), || {
                    format!("it names {invented:?} for a tag that does not exist")
                });
                for id in ["resolve-failed", "resolve-panics", "resolve-timeout"] {
                    findings.note(id, Ok(()));
                }
                return;
            }
            Ended::Returned(Err(error)) => {
                self.note_error(&error);
                "resolve-failed"
            }
            Ended::Panicked => "resolve-panics",
            Ended::Late => "resolve-timeout",
        };
        self.findings.require(id, false, || {
            format!("asking the upstream of {spec:?} does not end well")
        });
    }

    async fn fetch(&mut self, spec: &str, limits: TreeLimits) -> Attempt {
        let ended = self.fence.run(call(self.source, spec, limits)).await;
        let (panicked, late) = (
            matches!(ended, Ended::Panicked),
            matches!(ended, Ended::Late),
        );
        self.findings.require("fetch-panics", !panicked, || {
            format!("fetching {spec:?} panics")
        });
        self.findings.require("fetch-timeout", !late, || {
            format!(
                "fetching {spec:?} takes longer than {:?}",
                self.fence.deadline()
            )
        });
        match ended {
            Ended::Returned(Ok(brought)) => Attempt::Brought(Box::new(brought)),
            Ended::Returned(Err(error)) => {
                self.note_error(&error);
                Attempt::Refused(error)
            }
            Ended::Panicked => Attempt::Panicked,
            Ended::Late => Attempt::Late,
        }
    }

    fn note_error(&mut self, error: &PluginSourceError) {
        let texts = [
            ("Display", error.to_string()),
            ("Debug", format!("{error:?}")),
        ];
        self.secrets
            .check_texts(&texts, "PluginSourceError", self.findings);
    }
}

fn is_same(attempt: &Attempt, first: &Brought) -> bool {
    matches!(attempt, Attempt::Brought(brought) if **brought == *first)
}

/// One fetch into a folder of its own.
fn call(
    source: &Arc<dyn PluginSource>,
    spec: &str,
    limits: TreeLimits,
) -> impl Future<Output = Result<Brought, PluginSourceError>> + Send + 'static {
    let (source, spec) = (Arc::clone(source), spec.to_owned());
    async move {
        let failed = |error: io::Error| PluginSourceError::Failed(error.to_string());
        let own = Folder::new().map_err(failed)?;
        let destination = own.0.join("destination");
        fs::create_dir(&destination).map_err(failed)?;
        let request = FetchRequest::new(&spec, &destination, limits);
        let plugin = source.fetch(request).await?;
        Ok(Brought {
            plugin,
            tree: folder::read(&destination).map_err(failed)?,
            strays: folder::strays(&own.0).map_err(failed)?,
        })
    }
}

/// Everything that looks at a spec and must not do more.
fn look(source: &Arc<dyn PluginSource>, spec: &str) -> Result<(), PluginSourceError> {
    let checked = source.check(spec);
    let _ = (source.is_pinned(spec), source.is_immutable(spec));
    let _ = source.upstream(spec);
    let _ = source.pinned_to(spec, "0123");
    checked
}
