//! What our objects are called, and whose they are.

use std::collections::HashMap;

use uuid::Uuid;

/// Marks everything any Molecule server makes.
pub(super) const MANAGED: &str = "molecule.platform.managed";
/// Which server's database owns it: two servers can share a daemon.
pub(super) const INSTANCE: &str = "molecule.platform.instance";
/// The workspace it belongs to.
pub(super) const WORKSPACE: &str = "molecule.workspace.id";
/// The start that made it, so that a failed start takes back its own work only.
pub(super) const ATTEMPT: &str = "molecule.platform.start";

/// Labels as the daemon reports them.
pub(super) type Labels = HashMap<String, String>;

/// Container: `ws-<full id>`.
pub(super) fn container(workspace: Uuid) -> String {
    format!("ws-{workspace}")
}

/// `ws-<first twelve characters of the id>`: the network alias that agents use,
/// and what older servers called the container.
pub(super) fn short(workspace: Uuid) -> String {
    let mut name = container(workspace);
    name.truncate("ws-".len() + 12);
    name
}

/// The names a workspace's container may have, ours first.
pub(super) fn containers(workspace: Uuid) -> [String; 2] {
    [container(workspace), short(workspace)]
}

/// A container that only ever exists while a new volume is prepared.
pub(super) fn seed(workspace: Uuid) -> String {
    format!("ws-{workspace}-seed")
}

/// Volume with the agent's configuration.
pub(super) fn config_volume(workspace: Uuid) -> String {
    format!("ws-{workspace}-configs")
}

/// Volume with the agent's work.
pub(super) fn workspace_volume(workspace: Uuid) -> String {
    format!("ws-{workspace}-workspace")
}

/// Every name under which a container of a workspace may have been left.
pub(super) fn all_containers(workspace: Uuid) -> [String; 3] {
    [container(workspace), short(workspace), seed(workspace)]
}

/// Labels for a new object of `workspace`.
pub(super) fn labels(instance: &str, workspace: Uuid, attempt: Uuid) -> Labels {
    [
        (MANAGED, "true".to_owned()),
        (INSTANCE, instance.to_owned()),
        (WORKSPACE, workspace.to_string()),
        (ATTEMPT, attempt.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Filter for everything that belongs to `instance`.
pub(super) fn owned_by(instance: &str) -> HashMap<String, Vec<String>> {
    let wanted = vec![format!("{MANAGED}=true"), format!("{INSTANCE}={instance}")];
    HashMap::from([("label".to_owned(), wanted)])
}

/// True for a container that this server may stop or replace: its own, or one of
/// an older server that did not write whose it was. Never one that says it
/// belongs to somebody else, never one that is not ours at all.
pub(super) fn is_our_container(labels: Option<&Labels>, instance: &str) -> bool {
    let Some(labels) = labels else { return false };
    match labels.get(INSTANCE) {
        Some(owner) => owner == instance,
        None => labels.get(MANAGED).is_some_and(|managed| managed == "true"),
    }
}

/// True for a volume that does not say it belongs to somebody else. Its name has
/// a full workspace id, and the daemon itself makes it without labels when it
/// vanished under a container.
pub(super) fn is_our_volume(labels: &Labels, instance: &str) -> bool {
    labels.get(INSTANCE).is_none_or(|owner| owner == instance)
}

/// True when `labels` say that the start `attempt` made the object.
pub(super) fn made_by(labels: Option<&Labels>, attempt: Uuid) -> bool {
    labels.and_then(|labels| labels.get(ATTEMPT)) == Some(&attempt.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn names_carry_the_whole_id_and_the_alias_twelve_characters() {
        let id: Uuid = "0191a2b3-c4d5-7e6f-8a9b-0c1d2e3f4a5b".parse().unwrap();
        assert_eq!(container(id), "ws-0191a2b3-c4d5-7e6f-8a9b-0c1d2e3f4a5b");
        assert_eq!(short(id), "ws-0191a2b3-c4d");
        assert_eq!(
            config_volume(id),
            "ws-0191a2b3-c4d5-7e6f-8a9b-0c1d2e3f4a5b-configs"
        );
    }

    #[test]
    fn only_objects_that_are_ours_or_nobodys_may_be_touched() {
        let ours = labels_of(&[(MANAGED, "true"), (INSTANCE, "a")]);
        let theirs = labels_of(&[(MANAGED, "true"), (INSTANCE, "b")]);
        let older = labels_of(&[(MANAGED, "true")]);
        let strange = labels_of(&[("x", "y")]);
        assert!(is_our_container(Some(&ours), "a"));
        assert!(is_our_container(Some(&older), "a"));
        assert!(!is_our_container(Some(&theirs), "a"));
        assert!(!is_our_container(Some(&strange), "a"));
        assert!(!is_our_container(None, "a"));
        assert!(is_our_volume(&strange, "a"));
        assert!(!is_our_volume(&theirs, "a"));
    }
}
