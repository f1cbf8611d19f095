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

/// The port of an agent on the network of the host.
pub(super) const PORT: &str = "molecule.platform.port";

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

/// The names that the volume with the agent's configuration may have: ours, and what
/// older servers called it. Whichever is there stays in use.
pub(super) fn config_volumes(workspace: Uuid) -> [String; 2] {
    containers(workspace).map(|name| format!("{name}-configs"))
}

/// The names that the volume with the sessions of Claude Code may have, ours first.
pub(super) fn session_volumes(workspace: Uuid) -> [String; 2] {
    containers(workspace).map(|name| format!("{name}-claude-sessions"))
}

/// Volume with the agent's work.
pub(super) fn workspace_volume(workspace: Uuid) -> String {
    format!("ws-{workspace}-workspace")
}

/// Every name under which storage of a workspace may have been left.
pub(super) fn all_volumes(workspace: Uuid) -> Vec<String> {
    let [configs, old_configs] = config_volumes(workspace);
    let [sessions, old_sessions] = session_volumes(workspace);
    vec![
        configs,
        old_configs,
        sessions,
        old_sessions,
        workspace_volume(workspace),
    ]
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

/// Filter for everything of any server.
pub(super) fn owned_by_anyone() -> HashMap<String, Vec<String>> {
    let wanted = vec![format!("{MANAGED}=true"), INSTANCE.to_owned()];
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

/// True for a volume that does not say it belongs to somebody else, neither another
/// server nor another workspace of ours. Older servers wrote no owner, and the daemon
/// itself makes a volume without labels when it vanished under a container.
pub(super) fn is_our_volume(labels: &Labels, instance: &str, workspace: Uuid) -> bool {
    let says = |name: &str, ours: &str| labels.get(name).is_none_or(|given| given == ours);
    says(INSTANCE, instance) && says(WORKSPACE, &workspace.to_string())
}

/// Filter for every container that was given a port on the network of the host.
pub(super) fn with_port() -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![PORT.to_owned()])])
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
        let long = "ws-0191a2b3-c4d5-7e6f-8a9b-0c1d2e3f4a5b";
        assert_eq!(
            all_volumes(id),
            [
                format!("{long}-configs"),
                "ws-0191a2b3-c4d-configs".to_owned(),
                format!("{long}-claude-sessions"),
                "ws-0191a2b3-c4d-claude-sessions".to_owned(),
                format!("{long}-workspace"),
            ]
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
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(is_our_volume(&strange, "a", one));
        assert!(is_our_volume(&older, "a", one));
        assert!(!is_our_volume(&theirs, "a", one));
        let of_one = labels("a", one, other);
        assert!(is_our_volume(&of_one, "a", one));
        assert!(!is_our_volume(&of_one, "a", other));
    }
}
