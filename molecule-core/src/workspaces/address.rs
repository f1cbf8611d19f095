//! Where agents find each other.

use url::{Host, Url};
use uuid::Uuid;

use super::Workspaces;
use crate::outbound::Guard;

impl Workspaces {
    /// Decides which URLs may be called or handed out.
    pub(crate) fn guard(&self) -> &Guard {
        &self.services.guard
    }

    /// URL at which other agents on this server's backend reach an agent that it
    /// started, when that is not the one at which the server reaches it.
    pub(crate) fn internal_url(&self, id: Uuid, tier: i64) -> Option<String> {
        // As a start of a tier that is out of range would.
        let tier = u8::try_from(tier).unwrap_or_default();
        self.services.backend.internal_url(id, tier)
    }

    /// A URL as an agent on this server's backend must write it: where this machine
    /// is called otherwise from in there, `localhost` and loopback addresses get
    /// that name.
    pub(crate) fn as_agents_see_it(&self, url: &str) -> String {
        with_local_host(url, self.services.backend.platform_host())
    }
}

/// Replaces a local host by `name`; leaves any other text alone.
fn with_local_host(text: &str, name: &str) -> String {
    let Some(mut url) = Url::parse(text).ok().filter(|url| is_local(url.host())) else {
        return text.to_owned();
    };
    let named = Host::parse(name).ok();
    if named.is_none()
        || is_local(named.as_ref().map(borrowed))
        || url.set_host(Some(name)).is_err()
    {
        return text.to_owned();
    }
    let mut seen = String::from(url);
    // The parser writes a path of "/" where there was none.
    if seen.ends_with('/') && !text.ends_with('/') {
        seen.pop();
    }
    seen
}

fn is_local(host: Option<Host<&str>>) -> bool {
    match host {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    }
}

fn borrowed(host: &Host) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(ip) => Host::Ipv4(*ip),
        Host::Ipv6(ip) => Host::Ipv6(*ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_is_this_machine_gets_the_other_name() {
        let table = [
            ("http://localhost:8000", "http://host.docker.internal:8000"),
            (
                "http://LOCALHOST:8000/",
                "http://host.docker.internal:8000/",
            ),
            (
                "http://127.0.0.1:8000/a?b=127.0.0.1",
                "http://host.docker.internal:8000/a?b=127.0.0.1",
            ),
            ("https://127.9.9.9", "https://host.docker.internal"),
            ("http://2130706433:1", "http://host.docker.internal:1"),
            ("http://[::1]:8000", "http://host.docker.internal:8000"),
            (
                "http://[::ffff:127.0.0.1]:8000",
                "http://host.docker.internal:8000",
            ),
            (
                "http://127.0.0.1.evil.example/",
                "http://127.0.0.1.evil.example/",
            ),
            (
                "http://localhost.evil.example/x",
                "http://localhost.evil.example/x",
            ),
            (
                "http://agent.example/localhost",
                "http://agent.example/localhost",
            ),
            ("https://1.1.1.1/127.0.0.1", "https://1.1.1.1/127.0.0.1"),
            ("", ""),
            ("not a url", "not a url"),
        ];
        for (url, seen) in table {
            assert_eq!(with_local_host(url, "host.docker.internal"), seen);
        }
    }

    #[test]
    fn where_this_machine_has_its_own_name_nothing_changes() {
        for name in ["localhost", "127.0.0.1"] {
            assert_eq!(
                with_local_host("http://127.0.0.1:8000", name),
                "http://127.0.0.1:8000"
            );
        }
    }
}
