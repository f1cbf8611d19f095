//! How many connections one network may have, so that nobody takes every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::caller::{Caller, Client};
use crate::cidr::Cidr;

type Open = Arc<Mutex<HashMap<Caller, usize>>>;

/// Counts open connections by the network at their other end. Holds as many counts
/// as there are connections, at most.
pub(super) struct Peers {
    most: usize,
    /// These speak for many.
    exempt: Vec<Cidr>,
    open: Open,
}

/// One connection of a network, until it is dropped.
pub(super) struct PeerPlace(Option<(Open, Caller)>);

impl Peers {
    /// At most `most` of one network; proxies that are trusted and this machine may
    /// have more.
    pub(super) fn new(most: usize, exempt: Vec<Cidr>) -> Self {
        Self {
            most: most.max(1),
            exempt,
            open: Open::default(),
        }
    }

    /// None when the peer's network has enough.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<PeerPlace> {
        let peer = peer.to_canonical();
        if peer.is_loopback() || self.exempt.iter().any(|network| network.contains(peer)) {
            return Some(PeerPlace(None));
        }
        let network = Client::new(peer).caller;
        let mut open = lock(&self.open);
        let count = open.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(PeerPlace(Some((Arc::clone(&self.open), network))))
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let Some((open, network)) = &self.0 else {
            return;
        };
        let mut open = lock(open);
        if let Some(count) = open.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                open.remove(network);
            }
        }
    }
}

fn lock(open: &Open) -> MutexGuard<'_, HashMap<Caller, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_its_share_and_proxies_have_all() {
        let peers = Peers::new(2, vec!["10.0.0.0/8".parse().unwrap()]);
        let admit = |text: &str| peers.admit(text.parse().unwrap());
        let (one, two) = (admit("192.0.2.7"), admit("::ffff:192.0.2.7"));
        assert!(one.is_some() && two.is_some());
        assert!(admit("192.0.2.7").is_none());
        let other = admit("192.0.2.8");
        assert!(other.is_some(), "others have their own");
        let six = [admit("2001:db8::1"), admit("2001:db8::2")];
        assert!(six.iter().all(Option::is_some));
        assert!(admit("2001:db8::3").is_none(), "one customer has them all");
        for exempt in ["127.0.0.1", "::1", "10.1.2.3"] {
            let places: Vec<_> = (0..5).map(|_| admit(exempt)).collect();
            assert!(places.iter().all(Option::is_some), "{exempt}");
        }
        drop(one);
        assert!(admit("192.0.2.7").is_some(), "a place that is free again");
        drop((two, other, six));
        assert!(peers.open.lock().unwrap().is_empty(), "nothing is kept");
    }
}
