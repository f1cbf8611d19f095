//! What kind of place an IP address is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads, as far as a policy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A machine on the Internet.
    Public,
    /// A private network: 10/8, 172.16/12, 192.168/16, fd00::/8.
    Private,
    /// This machine.
    Loopback,
    /// Nobody's agent is there: metadata services, link-local, shared, reserved,
    /// documentation and multicast addresses, and those that embed another one.
    Forbidden,
}

/// Addresses of cloud metadata services outside the link-local range.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// The kind of an address.
pub(super) fn place(ip: IpAddr) -> Place {
    match ip {
        IpAddr::V4(ip) => place_v4(ip),
        IpAddr::V6(ip) => place_v6(ip),
    }
}

fn place_v4(ip: Ipv4Addr) -> Place {
    let [a, b, c, _] = ip.octets();
    let forbidden = METADATA_V4.contains(&ip)
        || ip.is_link_local()
        || a == 0 // this network
        || a >= 224 // multicast, reserved, broadcast
        || (a == 100 && (64..128).contains(&b)) // shared by carriers
        || matches!((a, b, c), (192, 0, 0 | 2) | (192, 88, 99)) // assignments, TEST-NET-1, 6to4 relays
        || matches!((a, b, c), (198, 18..20, _) | (198, 51, 100)) // benchmarks, TEST-NET-2
        || matches!((a, b, c), (203, 0, 113)); // TEST-NET-3
    match () {
        () if forbidden => Place::Forbidden,
        () if ip.is_loopback() => Place::Loopback,
        () if ip.is_private() => Place::Private,
        () => Place::Public,
    }
}

fn place_v6(ip: Ipv6Addr) -> Place {
    if ip.is_loopback() {
        return Place::Loopback;
    }
    if let Some(ip) = ip.to_ipv4_mapped() {
        return place_v4(ip);
    }
    let [a, b, ..] = ip.segments();
    if METADATA_V6.contains(&ip) {
        return Place::Forbidden;
    }
    match (a, b) {
        // fc00::/8 was never given out.
        (0xfd00..=0xfdff, _) => Place::Private,
        // Only 2000::/3 is the Internet. That leaves out ::/8 with what embeds an
        // IPv4 address (::a.b.c.d, ::ffff:0:a.b.c.d and NAT64 64:ff9b::), and
        // link-local, site-local and multicast addresses.
        _ if a >> 13 != 1 => Place::Forbidden,
        // IETF assignments with Teredo, documentation, 6to4.
        (0x2001, 0..0x0200 | 0x0db8) | (0x2002, _) | (0x3fff, 0..0x1000) => Place::Forbidden,
        _ => Place::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_all(expected: Place, addresses: &[&str]) {
        for text in addresses {
            assert_eq!(place(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn the_edges_of_every_range_are_known() {
        assert_all(
            Place::Public,
            &[
                "1.0.0.0",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "169.253.255.255",
                "169.255.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.0.3.0",
                "192.88.98.255",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "198.51.99.255",
                "203.0.112.255",
                "203.0.114.0",
                "223.255.255.255",
                "2001:200::",
                "2001:db7::1",
                "2001:db9::",
                "2003::",
                "2606:4700::1111",
                "3ffe::",
                "3fff:1000::",
                "::ffff:8.8.8.8",
            ],
        );
        assert_all(
            Place::Private,
            &[
                "10.0.0.0",
                "10.255.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.168.0.0",
                "192.168.255.255",
                "fd00::",
                "fdff::1",
                "::ffff:10.0.0.1",
            ],
        );
        assert_all(
            Place::Loopback,
            &[
                "127.0.0.0",
                "127.0.0.1",
                "127.255.255.255",
                "::1",
                "::ffff:127.0.0.1",
            ],
        );
        assert_all(
            Place::Forbidden,
            &[
                "0.0.0.0",
                "0.255.255.255",
                "100.64.0.0",
                "100.127.255.255",
                "100.100.100.200",
                "168.63.129.16",
                "169.254.0.0",
                "169.254.169.254",
                "169.254.255.255",
                "192.0.0.0",
                "192.0.0.255",
                "192.0.2.0",
                "192.88.99.1",
                "198.18.0.0",
                "198.19.255.255",
                "198.51.100.7",
                "203.0.113.255",
                "224.0.0.1",
                "239.255.255.255",
                "240.0.0.0",
                "255.255.255.255",
                "::",
                "::2",
                "::7f00:1",
                "::ffff:0:7f00:1",
                "::ffff:169.254.0.1",
                "64:ff9b::7f00:1",
                "64:ff9b:1::1",
                "100::1",
                "2001::1",
                "2001:10::",
                "2001:1ff::",
                "2001:db8::1",
                "2002:7f00:1::",
                "3fff::1",
                "5f00::1",
                "fc00::1",
                "fcff::1",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff00::1",
                "ff01::1",
                "ff02::1",
                "fd00:ec2::254",
                "fd20:ce::254",
            ],
        );
    }
}
