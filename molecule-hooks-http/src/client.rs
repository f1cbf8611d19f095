use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use molecule_hooks::HookError;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, Url};
use zeroize::Zeroizing;

use crate::address::is_loopback;
use crate::answer::Answer;

/// The longest answer that is read, in bytes, unless the builder says otherwise.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A bundle of every public authority has less than 300 KiB.
const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// A client for one upstream. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client,
    max_body_bytes: usize,
}

/// How an [`HttpClient`] shall be.
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpClientBuilder {
    user_agent: &'static str,
    direct: bool,
    timeout: Duration,
    ca_file: Option<String>,
    max_body_bytes: usize,
}

impl HttpClientBuilder {
    /// The deadline of one exchange, connecting and reading included; 10 seconds
    /// unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Trusts the certificate authorities of this PEM file besides the usual ones.
    /// The file is read by [`build`](HttpClientBuilder::build).
    pub fn ca_file(mut self, path: impl Into<String>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// The longest answer that is read, in bytes; [`MAX_BODY_BYTES`] unless set.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// Prepares the client; no network yet.
    ///
    /// # Errors
    /// A config error when the file of authorities cannot be used, or when the
    /// machine has no usable TLS setup.
    pub fn build(self) -> Result<HttpClient, HookError> {
        let authorities = match &self.ca_file {
            Some(path) => read_authorities(path)?,
            None => Vec::new(),
        };
        let mut client = Client::builder()
            .user_agent(self.user_agent)
            .timeout(self.timeout)
            // Credentials go to the configured host and to no other.
            .redirect(Policy::none())
            // Exchanges are minutes apart: nothing to keep alive.
            .pool_max_idle_per_host(0);
        if !authorities.is_empty() {
            client = client.tls_certs_merge(authorities);
        }
        if self.direct {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            let what = "the HTTP client cannot start (are CA certificates installed?)";
            HookError::config(what).with_source(error.without_url())
        })?;
        Ok(HttpClient {
            client,
            max_body_bytes: self.max_body_bytes,
        })
    }
}

impl HttpClient {
    /// A client for the upstream at `base` that calls itself `user_agent`, for
    /// example `my-hook/1.0`.
    pub fn builder(user_agent: &'static str, base: &Url) -> HttpClientBuilder {
        HttpClientBuilder {
            user_agent,
            direct: is_loopback(base),
            timeout: TIMEOUT,
            ca_file: None,
            max_body_bytes: MAX_BODY_BYTES,
        }
    }

    /// A GET request, to be sent with [`send`](HttpClient::send).
    pub fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    /// A POST request, to be sent with [`send`](HttpClient::send).
    pub fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// A DELETE request, to be sent with [`send`](HttpClient::send).
    pub fn delete(&self, url: Url) -> RequestBuilder {
        self.client.delete(url)
    }

    /// One exchange. `step` names it in errors, for example `read secret`. An
    /// answer of any status is `Ok`.
    ///
    /// # Errors
    /// A transient error when the upstream cannot be reached or does not answer in
    /// time, a permanent one when its answer is longer than the cap.
    pub async fn send(&self, step: &str, request: RequestBuilder) -> Result<Answer, HookError> {
        self.send_and_read(step, step, request).await
    }

    /// The same where errors shall tell asking (`ask`) from reading the answer
    /// (`read`), for example `post token` and `read response`.
    ///
    /// # Errors
    /// As [`send`](HttpClient::send).
    pub async fn send_and_read(
        &self,
        ask: &str,
        read: &str,
        request: RequestBuilder,
    ) -> Result<Answer, HookError> {
        let response = request
            .send()
            .await
            .map_err(|error| transport(ask, error))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = match self.read_body(read, response).await {
            Ok(body) => body,
            // The status says enough when the body of a refusal cannot be read.
            Err(_) if !(200..300).contains(&status) => Zeroizing::default(),
            Err(error) => return Err(error),
        };
        Ok(Answer::new(status, headers, body))
    }

    async fn read_body(
        &self,
        step: &str,
        mut response: Response,
    ) -> Result<Zeroizing<Vec<u8>>, HookError> {
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| transport(step, error))?
        {
            if body.len() + chunk.len() > self.max_body_bytes {
                return Err(HookError::permanent(format!(
                    "{step}: the answer is longer than {} bytes",
                    self.max_body_bytes
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Trouble on the way: worth trying again. The URL is dropped from the cause.
fn transport(step: &str, error: reqwest::Error) -> HookError {
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "connection failed"
    };
    HookError::transient(format!("{step}: {what}")).with_source(error.without_url())
}

fn read_authorities(path: &str) -> Result<Vec<Certificate>, HookError> {
    let refused = |why: &str| HookError::config(format!("the CA file {path:?} {why}"));
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        // Reading a pipe or a device could block for ever.
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_CA_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| refused(&format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_CA_FILE_BYTES {
        return Err(refused("is too long"));
    }
    let found = Certificate::from_pem_bundle(&bytes)
        .map_err(|_| refused("holds something that is no certificate"))?;
    match found.is_empty() {
        true => Err(refused("holds no certificate in PEM form")),
        false => Ok(found),
    }
}
