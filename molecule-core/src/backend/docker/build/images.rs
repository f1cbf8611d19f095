//! The images we built, on the daemon: finding, naming and removing them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    ListImagesOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder,
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;

use super::error::BuildError;
use super::mask::Mask;
use crate::backend::docker::daemon::{CallError, Daemon};
use crate::backend::docker::names::{Labels, MANAGED};
use crate::git::CommitId;

/// The repository of the images of a runtime. Without a dot in its first part it is
/// never taken for a host.
const REPOSITORY: &str = "molecule-local/workspace-template-";
/// What an image was built for, from, and how. An image has no label of a server:
/// containers inherit labels, and every server with the same source may use it.
const RUNTIME: &str = "molecule.build.runtime";
const COMMIT: &str = "molecule.build.commit";
const SOURCE: &str = "molecule.build.source";
const PLATFORM: &str = "molecule.build.platform";

/// Layers of one build that are remembered.
const MAX_LAYERS: usize = 64;
/// By how much the daemon's clock may be behind ours.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);
/// How often, and how long apart, removing a layer is tried again that a container
/// still uses: the daemon removes the container of an abandoned step at its own pace.
const DISCARD_TRIES: u32 = 20;
const DISCARD_PAUSE: Duration = Duration::from_millis(500);

/// One image as we would build it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) runtime: &'static str,
    pub(super) commit: CommitId,
    /// Which place the source comes from.
    pub(super) source: String,
    /// True when the usual name belongs to the image of another place: a fork has the
    /// same commits, and another server on this daemon may build from it.
    pub(super) apart: bool,
    /// `os/architecture`; the daemon's own if nobody configured one.
    pub(super) platform: String,
    /// True when that is not the daemon's own.
    pub(super) foreign: bool,
}

impl Wanted {
    /// `molecule-local/workspace-template-<runtime>`.
    fn repository(&self) -> String {
        format!("{REPOSITORY}{}", self.runtime)
    }

    /// Its tag is the short commit, the place where it keeps apart from another one, and
    /// the platform where that is not the daemon's own.
    pub(super) fn reference(&self) -> String {
        let mut tag = self.commit.short().to_owned();
        if self.apart {
            tag.push('-');
            tag.push_str(&self.source);
        }
        if self.foreign {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            tag.push('-');
            tag.extend(self.platform.chars().take(64).map(plain));
        }
        format!("{}:{tag}", self.repository())
    }

    pub(super) fn labels(&self) -> Labels {
        [
            (MANAGED, "true"),
            (RUNTIME, self.runtime),
            (COMMIT, self.commit.as_str()),
            (SOURCE, &self.source),
            (PLATFORM, &self.platform),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Whether an image with these labels was built like this one, but from the source
    /// of another place.
    fn is_of_another_place(&self, labels: Option<&Labels>) -> bool {
        labels.is_some_and(|labels| {
            let has = |name: &str, value: &str| labels.get(name).is_some_and(|is| is == value);
            has(MANAGED, "true")
                && has(RUNTIME, self.runtime)
                && labels
                    .get(SOURCE)
                    .is_some_and(|source| *source != self.source)
        })
    }

    /// Whether an image with these labels is the one.
    fn is(&self, labels: Option<&Labels>) -> bool {
        labels.is_some_and(|labels| {
            self.labels()
                .iter()
                .all(|(name, value)| labels.get(name) == Some(value))
        })
    }
}

/// The layers that a build reported, by which its leavings are found.
#[derive(Debug, Default)]
pub(super) struct Layers(VecDeque<String>);

impl Layers {
    /// Takes a line of the output: ` ---> 0123456789ab` names a layer.
    pub(super) fn take(&mut self, line: &str) {
        let Some(id) = line.strip_prefix(" ---> ").map(str::trim) else {
            return;
        };
        if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            if self.0.len() == MAX_LAYERS {
                self.0.pop_front();
            }
            self.0.push_back(id.to_owned());
        }
    }
}

/// Whether there is an image that is what is wanted, under either of its names. If not,
/// the one is settled on under which it does no harm to another's.
pub(super) async fn look(
    daemon: &Daemon,
    wanted: &mut Wanted,
    mask: &Mask,
) -> Result<bool, BuildError> {
    wanted.apart = false;
    let usual = inspect(daemon, wanted, mask).await?;
    let usual = usual.as_ref().map(labels_of);
    if usual.is_some_and(|labels| wanted.is(labels)) {
        return Ok(true);
    }
    wanted.apart = true;
    if find(daemon, wanted, mask).await?.is_some() {
        return Ok(true);
    }
    wanted.apart = usual.is_some_and(|labels| wanted.is_of_another_place(labels));
    Ok(false)
}

/// Id of an image that is what is wanted; none if there is none under its name.
pub(super) async fn find(
    daemon: &Daemon,
    wanted: &Wanted,
    mask: &Mask,
) -> Result<Option<String>, BuildError> {
    let found = inspect(daemon, wanted, mask).await?;
    let found = found.filter(|image| wanted.is(labels_of(image)));
    Ok(found.and_then(|image| image.id))
}

/// What has the name of the wanted image.
async fn inspect(
    daemon: &Daemon,
    wanted: &Wanted,
    mask: &Mask,
) -> Result<Option<ImageInspect>, BuildError> {
    let reference = wanted.reference();
    match daemon.call(|client| client.inspect_image(&reference)).await {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.is_image_missing() => Ok(None),
        Err(error) => Err(explained("look for the image", &error, mask)),
    }
}

fn labels_of(image: &ImageInspect) -> Option<&Labels> {
    image.config.as_ref()?.labels.as_ref()
}

/// Lets `:latest` mean this image. Nothing depends on it, so failing is fine.
pub(super) async fn name_latest(daemon: &Daemon, wanted: &Wanted, mask: &Mask) {
    let (reference, repository) = (wanted.reference(), wanted.repository());
    let options = TagImageOptionsBuilder::default()
        .repo(&repository)
        .tag("latest")
        .build();
    let named = daemon
        .call(|client| client.tag_image(&reference, Some(options)))
        .await;
    if let Err(error) = named {
        let error = explained("name the image", &error, mask);
        tracing::warn!(%error, "the newest local image has no tag latest");
    }
}

/// Keeps the newest `keep` images of the same runtime and source, and in any case
/// `current`. The daemon refuses to remove what is in use.
pub(super) async fn evict(daemon: &Daemon, wanted: &Wanted, current: &str, keep: usize) {
    let labels = [
        format!("{MANAGED}=true"),
        format!("{RUNTIME}={}", wanted.runtime),
        format!("{SOURCE}={}", wanted.source),
    ];
    let filter = HashMap::from([("label".to_owned(), labels.to_vec())]);
    let options = ListImagesOptionsBuilder::default().filters(&filter).build();
    let listed = daemon
        .call(|client| client.list_images(Some(options)))
        .await;
    let Ok(mut images) = listed else {
        tracing::warn!(
            runtime = wanted.runtime,
            "old local images could not be listed"
        );
        return;
    };
    let is = |labels: &Labels, name: &str, value: &str| {
        labels.get(name).is_some_and(|found| found == value)
    };
    // Does not rely on the daemon's filter.
    images.retain(|image| {
        image.id != current
            && is(&image.labels, RUNTIME, wanted.runtime)
            && is(&image.labels, SOURCE, &wanted.source)
    });
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let prefix = format!("{}:", wanted.repository());
    for image in images.into_iter().skip(keep.saturating_sub(1)) {
        let mut names: Vec<String> = image.repo_tags;
        names.retain(|name| name != "<none>:<none>");
        let names = if names.is_empty() {
            vec![image.id]
        } else {
            // A name that somebody else gave it keeps it.
            names.retain(|name| name.starts_with(&prefix));
            names
        };
        for name in names {
            let removed = daemon.call(|client| remove(client, &name)).await;
            match removed {
                Ok(()) => tracing::info!(image = name, "old local image removed"),
                Err(error) => tracing::debug!(image = name, ?error, "old local image kept"),
            }
        }
    }
}

/// Removes what a build that did not end left: layers that it made and nothing uses.
pub(super) async fn discard(daemon: &Daemon, layers: Layers, since: DateTime<Utc>) {
    let mut tries = DISCARD_TRIES;
    // The last one takes those below along.
    for id in layers.0.into_iter().rev() {
        loop {
            let found = daemon.call(|client| client.inspect_image(&id)).await;
            // Also whatever else a line of output may have pretended to be a layer.
            if !found.is_ok_and(|image| is_leaving(&image, since)) {
                break;
            }
            match daemon.call(|client| remove(client, &id)).await {
                Err(CallError::Status(409, text)) if text.contains("container") && tries > 0 => {
                    tries -= 1;
                    sleep(DISCARD_PAUSE).await;
                }
                _ => break,
            }
        }
    }
}

/// Whether an image has no name and is no older than a build.
fn is_leaving(image: &ImageInspect, since: DateTime<Utc>) -> bool {
    let is_bare = |names: Option<&Vec<String>>| {
        names.is_none_or(|names| names.iter().all(|name| name.starts_with("<none>")))
    };
    is_bare(image.repo_tags.as_ref())
        && is_bare(image.repo_digests.as_ref())
        && image
            .created
            .is_some_and(|created| created + CLOCK_SKEW >= since)
}

async fn remove(client: &Docker, name: &str) -> Result<(), bollard::errors::Error> {
    let options = None::<RemoveImageOptions>;
    client.remove_image(name, options, None).await.map(drop)
}

/// A failed call as an error of a build.
pub(super) fn explained(what: &str, error: &CallError, mask: &Mask) -> BuildError {
    let text = match error {
        CallError::Status(status, text) => format!("status {status}: {}", mask.line(text)),
        CallError::Timeout => "the daemon did not answer in time".to_owned(),
        CallError::Broken(text) => mask.line(text),
        CallError::Cancelled => return BuildError::Cancelled,
    };
    let text = format!("local-build: cannot {what}: {text}");
    match error {
        CallError::Status(status, _) if *status < 500 => BuildError::Refused(text),
        _ => BuildError::Trouble(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            runtime: "codex",
            commit: CommitId::parse("0123456789abcdef0123456789abcdef01234567").unwrap(),
            source: "5ca1ab1e".to_owned(),
            apart: false,
            platform: "linux/amd64".to_owned(),
            foreign: false,
        }
    }

    #[test]
    fn the_tag_is_the_commit_another_place_and_a_foreign_platform() {
        assert_eq!(
            wanted().reference(),
            "molecule-local/workspace-template-codex:0123456789ab"
        );
        let foreign = Wanted {
            platform: "linux/arm64/v8".to_owned(),
            foreign: true,
            ..wanted()
        };
        assert_eq!(
            foreign.reference(),
            "molecule-local/workspace-template-codex:0123456789ab-linux-arm64-v8"
        );
        let apart = Wanted {
            apart: true,
            ..foreign
        };
        assert_eq!(
            apart.reference(),
            "molecule-local/workspace-template-codex:0123456789ab-5ca1ab1e-linux-arm64-v8"
        );
    }

    #[test]
    fn an_image_of_another_source_commit_or_platform_is_another_image() {
        let labels = wanted().labels();
        assert!(wanted().is(Some(&labels)));
        assert!(!wanted().is(None));
        for (name, value) in [
            (SOURCE, "other"),
            (PLATFORM, "linux/arm64"),
            (COMMIT, "0123456789abffffffffffffffffffffffffffff"),
            (RUNTIME, "hermes"),
        ] {
            let mut other = labels.clone();
            other.insert(name.to_owned(), value.to_owned());
            assert!(!wanted().is(Some(&other)), "{name}");
            let is_of_another_place = wanted().is_of_another_place(Some(&other));
            assert_eq!(is_of_another_place, name == SOURCE, "{name}");
        }
    }

    #[test]
    fn only_plain_short_ids_are_layers() {
        let mut layers = Layers::default();
        for line in [
            "Step 1/2 : FROM scratch",
            " ---> 0123456789ab",
            " ---> Running in 0123456789ab",
            " ---> Using cache",
            " ---> python:3.12",
            "---> aaaaaaaaaaaa",
        ] {
            layers.take(line);
        }
        assert_eq!(layers.0, ["0123456789ab"]);
        (0..1000).for_each(|_| layers.take(" ---> ffffffffffff"));
        assert_eq!(layers.0.len(), MAX_LAYERS);
    }

    #[test]
    fn named_and_older_images_are_nobodys_leavings() {
        let now = Utc::now();
        let image = |tags: &[&str], age: TimeDelta| ImageInspect {
            repo_tags: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()),
            created: Some(now - age),
            ..ImageInspect::default()
        };
        assert!(is_leaving(&image(&[], TimeDelta::zero()), now));
        assert!(!is_leaving(&image(&["a:b"], TimeDelta::zero()), now));
        assert!(!is_leaving(&image(&[], TimeDelta::hours(1)), now));
        assert!(!is_leaving(&ImageInspect::default(), now));
    }
}
