//! Which URLs an agent may register: nothing that would make this server call
//! itself, its metadata service or its private network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use url::{Host, Url};
use uuid::Uuid;

const MAX_URL_BYTES: usize = 2048;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a URL was refused. Told to the agent as `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("url must be an http:// or https:// URL with a host and without credentials")]
    Malformed,
    #[error("url points to an address that is not allowed")]
    Blocked,
    #[error("the host of url cannot be resolved")]
    Unresolvable,
}

/// Checks the URL an agent of `workspace` registers.
pub(super) async fn check(text: &str, workspace: Uuid) -> Result<(), Refusal> {
    let url = parse(text)?;
    match url.host().ok_or(Refusal::Malformed)? {
        Host::Ipv4(ip) => allow(IpAddr::V4(ip)),
        Host::Ipv6(ip) => allow(IpAddr::V6(ip)),
        Host::Domain(name) if name == "localhost" || is_own_container(name, workspace) => Ok(()),
        Host::Domain(name) => {
            let port = url.port_or_known_default().unwrap_or(80);
            let lookup = tokio::net::lookup_host((name, port));
            let addresses: Vec<IpAddr> = match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
                Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
                Ok(Err(_)) | Err(_) => return Err(Refusal::Unresolvable),
            };
            match addresses.is_empty() {
                true => Err(Refusal::Unresolvable),
                false => addresses.into_iter().try_for_each(allow),
            }
        }
    }
}

fn parse(text: &str) -> Result<Url, Refusal> {
    // The parser drops or escapes control characters; what is stored is the text.
    if text.len() > MAX_URL_BYTES || text.contains(char::is_control) {
        return Err(Refusal::Malformed);
    }
    let url = Url::parse(text).map_err(|_| Refusal::Malformed)?;
    let plain = url.username().is_empty() && url.password().is_none();
    match matches!(url.scheme(), "http" | "https") && plain {
        true => Ok(url),
        false => Err(Refusal::Malformed),
    }
}

/// The names that containers of this server have on their own network.
fn is_own_container(name: &str, workspace: Uuid) -> bool {
    let id = workspace.to_string();
    name.strip_prefix("ws-")
        .is_some_and(|rest| rest == id || rest == &id[..12])
}

fn allow(ip: IpAddr) -> Result<(), Refusal> {
    let blocked = match ip {
        IpAddr::V4(ip) => is_blocked_v4(ip),
        IpAddr::V6(ip) => is_blocked_v6(ip),
    };
    if blocked {
        Err(Refusal::Blocked)
    } else {
        Ok(())
    }
}

fn is_blocked_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_broadcast()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 2)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113)
        || (a == 198 && (18..20).contains(&b))
}

fn is_blocked_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_blocked_v4(v4);
    }
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || segments[0] & 0xfe00 == 0xfc00 // unique local
        || segments[0] & 0xffc0 == 0xfe80 // link local
        || (segments[0] == 0x2001 && segments[1] == 0x0db8) // documentation
        || segments[0] == 0x2002 // 6to4 embeds an IPv4 address
        || (segments[0] == 0x0064 && segments[1] == 0xff9b) // NAT64 does too
        || segments[..6] == [0; 6] // IPv4-compatible, long deprecated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

    async fn verdict(url: &str) -> Result<(), Refusal> {
        check(url, Uuid::parse_str(ID).unwrap()).await
    }

    #[tokio::test]
    async fn own_containers_localhost_and_public_addresses_are_allowed() {
        for url in [
            "http://localhost:8000",
            "http://ws-7aa08951-00d:8000",
            "http://ws-7aa08951-00d1-4c3e-9d6a-0123456789ab:8000",
            "https://1.1.1.1/agent",
            "http://[2606:4700::1111]:8000",
        ] {
            assert_eq!(verdict(url).await, Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn everything_inside_is_refused() {
        for url in [
            "http://127.0.0.1:8000",
            "http://127.1:8000",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0.0.0.0",
            "http://169.254.169.254/latest/meta-data",
            "http://10.0.0.1",
            "http://172.17.0.2:8000",
            "http://192.168.1.1",
            "http://100.64.0.1",
            "http://224.0.0.1",
            "http://[::1]",
            "http://[::]",
            "http://[::ffff:10.0.0.1]",
            "http://[fd00::1]",
            "http://[fe80::1]",
            "http://[64:ff9b::a00:1]",
            "http://[2002:a00:1::]",
        ] {
            assert_eq!(verdict(url).await, Err(Refusal::Blocked), "{url}");
        }
        for url in [
            "",
            "ftp://x",
            "http://",
            "http://user:pw@example.org",
            "javascript:1",
            "http://a b",
        ] {
            assert_eq!(verdict(url).await, Err(Refusal::Malformed), "{url}");
        }
    }

    #[tokio::test]
    async fn another_workspaces_container_is_no_exception() {
        let refused = verdict("http://ws-11111111-111:8000").await;
        assert!(refused.is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,100}") {
            let _ = parse(&text);
        }

        #[test]
        fn private_addresses_never_pass_in_any_notation(a in prop::sample::select(vec![10_u8, 127, 0]), b: u8, c: u8, d: u8) {
            let ip = Ipv4Addr::new(a, b, c, d);
            prop_assert!(allow(IpAddr::V4(ip)).is_err());
            prop_assert!(allow(IpAddr::V6(ip.to_ipv6_mapped())).is_err());
        }
    }
}
