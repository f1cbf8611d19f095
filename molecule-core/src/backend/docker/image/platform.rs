//! For which operating system and architecture images are taken.

use bollard::models::ImageInspect;

use crate::config::backend::DockerConfig;

/// What ARM Macs take, because the images of the runtimes are made for it.
const ON_APPLE_SILICON: &str = "linux/amd64";

/// Whether this is an ARM Mac.
pub(super) const IS_APPLE_SILICON: bool = cfg!(all(target_os = "macos", target_arch = "aarch64"));

/// `os/architecture`, perhaps with a variant behind another slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend::docker) struct Platform {
    os: String,
    architecture: String,
}

impl Platform {
    /// The platform that the operator asks for; none when the daemon may choose.
    pub(in crate::backend::docker) fn of(config: &DockerConfig) -> Option<Self> {
        Self::on(IS_APPLE_SILICON, config)
    }

    /// The same on a machine that is an ARM Mac or none.
    pub(super) fn on(apple_silicon: bool, config: &DockerConfig) -> Option<Self> {
        Self::choose(config.image_platform.as_deref(), apple_silicon)
    }

    fn choose(configured: Option<&str>, apple_silicon: bool) -> Option<Self> {
        let default = || apple_silicon.then_some(ON_APPLE_SILICON);
        Self::parse(configured.or_else(default)?)
    }

    /// Half a platform is none.
    fn parse(text: &str) -> Option<Self> {
        let (os, architecture) = text.trim().split_once('/')?;
        (!os.is_empty() && !architecture.is_empty()).then(|| Self {
            os: os.to_ascii_lowercase(),
            architecture: architecture.to_ascii_lowercase(),
        })
    }

    /// True for an image that says nothing else about itself.
    pub(super) fn fits(&self, image: &ImageInspect) -> bool {
        let (architecture, variant) = match self.architecture.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant)),
            None => (self.architecture.as_str(), None),
        };
        let fits = |wanted: &str, has: Option<&String>| {
            has.is_none_or(|has| has.is_empty() || has.eq_ignore_ascii_case(wanted))
        };
        fits(&self.os, image.os.as_ref())
            && fits(canonical(architecture), image.architecture.as_ref())
            && variant.is_none_or(|variant| fits(variant, image.variant.as_ref()))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// The platform of an image, for a text.
pub(super) fn of_image(image: &ImageInspect) -> String {
    let part = |part: &Option<String>| part.clone().filter(|part| !part.is_empty());
    let unknown = || "unknown".to_owned();
    format!(
        "{}/{}",
        part(&image.os).unwrap_or_else(unknown),
        part(&image.architecture).unwrap_or_else(unknown)
    )
}

/// The daemon's name for what has several.
fn canonical(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(configured: Option<&str>, apple_silicon: bool) -> Option<String> {
        Platform::choose(configured, apple_silicon).map(|platform| platform.to_string())
    }

    #[test]
    fn what_is_set_wins_and_an_empty_setting_is_no_preference() {
        let amd = Some("linux/amd64".to_owned());
        assert_eq!(shown(None, false), None);
        assert_eq!(shown(None, true), amd);
        assert_eq!(shown(Some(""), true), None);
        assert_eq!(shown(Some("linux/amd64"), false), amd);
        assert_eq!(
            shown(Some("linux/arm64"), true),
            Some("linux/arm64".to_owned())
        );
        for half in ["linux", "linux/", "/amd64", "/", " "] {
            assert_eq!(shown(Some(half), true), None, "{half}");
        }
    }

    #[test]
    fn only_the_first_slash_separates() {
        let platform = Platform::choose(Some("linux/amd64/v8"), false).unwrap();
        assert_eq!(platform.os, "linux");
        assert_eq!(platform.architecture, "amd64/v8");
    }

    #[test]
    fn an_image_fits_unless_it_says_otherwise() {
        let image = |os: &str, architecture: &str, variant: &str| ImageInspect {
            os: Some(os.to_owned()),
            architecture: Some(architecture.to_owned()),
            variant: Some(variant.to_owned()),
            ..ImageInspect::default()
        };
        let platform = |text| Platform::choose(Some(text), false).unwrap();
        assert!(platform("linux/amd64").fits(&image("linux", "amd64", "")));
        assert!(platform("linux/x86_64").fits(&image("linux", "amd64", "")));
        assert!(platform("linux/arm64").fits(&image("linux", "arm64", "v8")));
        assert!(platform("linux/arm/v7").fits(&image("linux", "arm", "v7")));
        assert!(platform("linux/amd64").fits(&ImageInspect::default()));
        assert!(!platform("linux/arm/v7").fits(&image("linux", "arm", "v6")));
        assert!(!platform("linux/arm64").fits(&image("linux", "amd64", "")));
        assert!(!platform("windows/amd64").fits(&image("linux", "amd64", "")));
    }
}
