//! What other servers have on the daemon, or a server whose database is gone.

use std::collections::BTreeMap;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder};

use super::super::daemon::CallError;
use super::super::names::{self, Labels};
use super::{Inner, doubtful, good, unknown};
use crate::backend::{Fact, NO_INSTANCE};

const WHAT: &str = "others on docker";
/// Instance ids that are named.
const EXAMPLES: usize = 5;

/// Containers and volumes of one server.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    containers: usize,
    volumes: usize,
}

/// Nothing where this server does not know yet what is its own.
pub(super) async fn fact(inner: &Inner) -> Option<Fact> {
    if inner.instance == NO_INSTANCE {
        return None;
    }
    Some(match held(inner).await {
        Ok(held) => describe(&held),
        Err(error) => unknown(WHAT, &error),
    })
}

async fn held(inner: &Inner) -> Result<BTreeMap<String, Held>, CallError> {
    let filter = names::owned_by_anyone();
    let containers = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filter)
        .build();
    let volumes = ListVolumesOptionsBuilder::default()
        .filters(&filter)
        .build();
    let daemon = &inner.daemon;
    let (containers, volumes) = tokio::join!(
        daemon.call(|client| client.list_containers(Some(containers))),
        daemon.call(|client| client.list_volumes(Some(volumes))),
    );
    let mut found: BTreeMap<String, Held> = BTreeMap::new();
    let other = |labels: Option<&Labels>| {
        let owner = labels?.get(names::INSTANCE)?;
        (*owner != inner.instance).then(|| owner.clone())
    };
    for container in containers? {
        if let Some(owner) = other(container.labels.as_ref()) {
            found.entry(owner).or_default().containers += 1;
        }
    }
    for volume in volumes?.volumes.unwrap_or_default() {
        if let Some(owner) = other(Some(&volume.labels)) {
            found.entry(owner).or_default().volumes += 1;
        }
    }
    Ok(found)
}

fn describe(held: &BTreeMap<String, Held>) -> Fact {
    if held.is_empty() {
        return good(WHAT, "nothing of another instance");
    }
    let named = held.iter().take(EXAMPLES).map(|(owner, held)| {
        let Held {
            containers,
            volumes,
        } = held;
        format!("{owner} ({containers} containers, {volumes} volumes)")
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if held.len() > EXAMPLES {
        text = format!("{text} and {} more", held.len() - EXAMPLES);
    }
    doubtful(
        WHAT,
        format!("of other instances: {text}"),
        "nothing here ever touches them: each is of another server on this daemon, or of a \
         database that is gone, and then yours to remove: `docker ps -a` and `docker volume ls` \
         take `--filter label=molecule.platform.instance=<id>`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::FactLevel;

    #[test]
    fn what_others_hold_is_counted_and_a_few_of_them_are_named() {
        assert_eq!(describe(&BTreeMap::new()).level, FactLevel::Good);
        let of = |number: usize| {
            let held = Held {
                containers: number,
                volumes: 2 * number,
            };
            (format!("instance-{number}"), held)
        };
        let one = describe(&BTreeMap::from([of(3)]));
        assert_eq!(one.level, FactLevel::Doubtful);
        assert_eq!(
            one.text,
            "of other instances: instance-3 (3 containers, 6 volumes)"
        );
        let many = describe(&(0..9).map(of).collect());
        assert!(many.text.ends_with(" and 4 more"), "{}", many.text);
    }
}
