//! Networks as operators write them: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.

use std::net::IpAddr;
use std::str::FromStr;

/// A network of one address family. An address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// The address, left-aligned, without the bits behind the prefix.
    network: u128,
    prefix: u8,
    is_v4: bool,
}

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidCidr;

impl Cidr {
    /// Whether the address is in this network. An IPv4 address in IPv6 clothes is
    /// an IPv4 address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let (bits, is_v4) = bits(address);
        is_v4 == self.is_v4 && (bits ^ self.network) & mask(self.prefix) == 0
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let text = text.trim();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| InvalidCidr)?;
        let longest: u8 = if written.is_ipv4() { 32 } else { 128 };
        let mut prefix = match prefix {
            // `parse` would take a sign, too.
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| InvalidCidr)?
            }
            Some(_) => return Err(InvalidCidr),
            None => longest,
        };
        if prefix > longest {
            return Err(InvalidCidr);
        }
        let (bits, is_v4) = bits(written);
        if is_v4 && written.is_ipv6() {
            // `::ffff:10.0.0.0/104` is `10.0.0.0/8`; with less than 96 bits it would
            // be something of both families.
            prefix = prefix.checked_sub(96).ok_or(InvalidCidr)?;
        }
        Ok(Self {
            network: bits & mask(prefix),
            prefix,
            is_v4,
        })
    }
}

/// The address left-aligned in 128 bits, and whether it is an IPv4 address.
fn bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
        IpAddr::V6(address) => (address.to_bits(), false),
    }
}

fn mask(prefix: u8) -> u128 {
    match prefix {
        0 => 0,
        prefix => u128::MAX << (128 - u32::from(prefix)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        let network: Cidr = network.parse().unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_holds_what_shares_its_prefix() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            // Bits behind the prefix do not matter.
            (" 10.1.2.3/8 ", "10.9.9.9", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.3.0.1", true),
            ("::1", "::1", true),
        ] {
            assert_eq!(holds(network, address), expected, "{address} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "010.0.0.1",
            "10.0.0.0/999999999999",
            "::/129",
            "[::1]/128",
            "::ffff:10.0.0.0/95",
            "fe80::1%eth0",
            "proxy.example.org",
            "*",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,60}") {
            let _ = text.parse::<Cidr>();
        }

        #[test]
        fn a_network_holds_itself_and_neighbours_up_to_its_prefix(
            address in any::<u32>(),
            other in any::<u32>(),
            prefix in 0..=32_u8,
        ) {
            let address = Ipv4Addr::from_bits(address);
            let network: Cidr = format!("{address}/{prefix}").parse().unwrap();
            prop_assert!(network.contains(address.into()));
            let same = prefix == 0
                || (address.to_bits() ^ other) >> (32 - u32::from(prefix)) == 0;
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other).into()), same);
        }

        #[test]
        fn so_do_networks_of_the_other_family(
            address in any::<u128>(),
            flipped in 0..128_u32,
            prefix in 0..=128_u8,
        ) {
            // Not one of the IPv4 addresses in IPv6 clothes.
            let address = address | 1 << 127;
            let network: Cidr =
                format!("{}/{prefix}", Ipv6Addr::from_bits(address)).parse().unwrap();
            let neighbour = Ipv6Addr::from_bits(address ^ (1 << flipped));
            prop_assert!(network.contains(Ipv6Addr::from_bits(address).into()));
            let is_behind = 127 - flipped >= u32::from(prefix);
            prop_assert_eq!(network.contains(neighbour.into()), is_behind);
        }
    }
}
