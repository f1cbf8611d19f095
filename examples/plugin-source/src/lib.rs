//! A source of workspace plugins with a scheme of its own: `archive://careful-bash@1.0.0`
//! is the file `<url>/careful-bash-1.0.0.tar.gz` of a web server. Its revision is the
//! SHA-256 of the file; `archive://careful-bash@1.0.0#sha256:<digits>` takes no other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use molecule_hooks::*;
use reqwest::{StatusCode, Url};
use sha2::{Digest, Sha256};
use tokio_util::io::{InspectReader, StreamReader};

/// The section `hooks.config.plugin-source` of `molecule.yaml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Option<String>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[ConfigField::new("url", "folder of the archives")
        .example("https://plugins.example.org/archives")];

    fn validate(&self) -> Vec<String> {
        let url = self.url.as_ref().map(|url| Url::parse(url));
        match url {
            Some(Ok(url)) if matches!(url.scheme(), "http" | "https") && url.has_host() => vec![],
            None => vec![],
            _ => vec!["url must be an http:// or https:// URL".to_owned()],
        }
    }
}

struct Archives {
    url: String,
    client: reqwest::Client,
}

/// `<name>@<version>[#sha256:<64 digits>]`.
struct Spec<'a> {
    name: &'a str,
    version: &'a str,
    sha256: Option<&'a str>,
}

impl<'a> Spec<'a> {
    fn parse(spec: &'a str) -> Option<Self> {
        let (place, sha256) = match spec.split_once("#sha256:") {
            Some((place, digits)) => (place, Some(digits)),
            None => (spec, None),
        };
        let (name, version) = place.split_once('@')?;
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_sha256 = |digits: &str| digits.len() == 64 && digits.bytes().all(digit);
        // Both end up in a URL: plain names lead nowhere else.
        let known = PluginName::parse(name).is_some() && PluginName::parse(version).is_some();
        let spec = Self {
            name,
            version,
            sha256,
        };
        (known && sha256.is_none_or(is_sha256)).then_some(spec)
    }
}

fn invalid() -> PluginSourceError {
    PluginSourceError::InvalidSpec("it must be <name>@<version>[#sha256:<64 digits>]".to_owned())
}

fn failed(error: reqwest::Error) -> PluginSourceError {
    let text = error.without_url().to_string();
    PluginSourceError::Failed(text)
}

#[async_trait]
impl PluginSource for Archives {
    fn scheme(&self) -> &str {
        "archive"
    }

    fn check(&self, spec: &str) -> Result<(), PluginSourceError> {
        Spec::parse(spec).map(drop).ok_or_else(invalid)
    }

    fn is_immutable(&self, spec: &str) -> bool {
        Spec::parse(spec).is_some_and(|spec| spec.sha256.is_some())
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        let spec = Spec::parse(request.spec).ok_or_else(invalid)?;
        let url = format!("{}/{}-{}.tar.gz", self.url, spec.name, spec.version);
        let answer = self.client.get(url).send().await.map_err(failed)?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(PluginSourceError::NotFound(request.spec.to_owned()));
        }
        let answer = answer.error_for_status().map_err(failed)?;
        if answer.status() != StatusCode::OK {
            // No redirect is followed.
            let text = format!("the server answers {}", answer.status());
            return Err(PluginSourceError::Failed(text));
        }
        // Hashed and unpacked while it arrives.
        let hash = Arc::new(Mutex::new(Sha256::new()));
        let hashing = Arc::clone(&hash);
        let body = StreamReader::new(answer.bytes_stream().map_err(std::io::Error::other));
        let body = InspectReader::new(body, move |bytes: &[u8]| {
            let mut hash = hashing.lock().unwrap_or_else(PoisonError::into_inner);
            hash.update(bytes);
        });
        archive::unpack(Box::pin(body), request.destination, &request.limits).await?;
        let hash = hash.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let digits: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        match spec.sha256 {
            Some(wanted) if wanted != digits => Err(PluginSourceError::Failed(
                "the archive is another one than the one that was named".to_owned(),
            )),
            _ => Ok(FetchedPlugin::new(spec.name).at(digits)),
        }
    }

    fn pinned_to(&self, spec: &str, revision: &str) -> String {
        let place = spec.split('#').next().unwrap_or(spec);
        format!("{place}#sha256:{revision}")
    }
}

fn build(config: Config, _: &BuildContext) -> BuildSourceResult {
    let Some(url) = config.url else {
        return Ok(None); // linked, but skipped
    };
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .build();
    let client = client.map_err(|_| HookError::config("no HTTP client can be made here"))?;
    let url = url.trim_end_matches('/').to_owned();
    Ok(Some(Arc::new(Archives { url, client })))
}

register_plugin_source! {
    name: "plugin-source",
    scheme: "archive",
    description: "Plugins that are archives on a web server",
    config: Config,
    build: build,
    contract: include_str!("../contract.json"),
}
