use proptest::prelude::*;

use super::*;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn tree(parents: &[(u128, Option<u128>)]) -> Tree {
    Tree {
        parents: parents
            .iter()
            .map(|(child, parent)| (id(*child), parent.map(id)))
            .collect(),
    }
}

/// 1 and 2 are roots; 11 and 12 below 1; 111 below 11; 21 below 2.
fn family() -> Tree {
    tree(&[
        (1, None),
        (2, None),
        (11, Some(1)),
        (12, Some(1)),
        (111, Some(11)),
        (21, Some(2)),
    ])
}

#[test]
fn the_root_is_found_from_any_depth_and_never_on_a_circle() {
    let tree = family();
    for (of, root) in [(1, 1), (11, 1), (111, 1), (21, 2)] {
        assert_eq!(tree.root(id(of)), Some(id(root)), "{of}");
    }
    assert_eq!(tree.root(id(99)), None);
    let deep: Vec<_> = (0..200_u128).map(|n| (n, n.checked_sub(1))).collect();
    assert_eq!(self::tree(&deep).root(id(199)), Some(id(0)));
    let circle = self::tree(&[(1, Some(2)), (2, Some(3)), (3, Some(1)), (4, Some(1))]);
    for of in 1..5 {
        assert_eq!(circle.root(id(of)), None, "{of}");
    }
}

#[test]
fn relatives_may_talk_and_cousins_may_not() {
    let allowed = [
        (1, 1, "itself"),
        (1, 2, "roots"),
        (11, 12, "siblings"),
        (1, 11, "child"),
        (11, 1, "parent"),
        (1, 111, "grandchild"),
        (111, 1, "grandparent"),
        (99, 99, "an unknown one and itself"),
    ];
    let denied = [
        (111, 12, "aunt"),
        (11, 21, "cousins"),
        (1, 21, "the other root's child"),
        (111, 2, "the other root"),
        (1, 99, "unknown target"),
        (99, 1, "unknown caller"),
        (98, 99, "two unknown ones"),
    ];
    let tree = family();
    for (caller, target, who) in allowed {
        assert!(tree.can_communicate(id(caller), id(target)), "{who}");
    }
    for (caller, target, who) in denied {
        assert!(!tree.can_communicate(id(caller), id(target)), "{who}");
    }
}

#[test]
fn the_walk_goes_32_steps_past_the_parent() {
    let chain: Vec<_> = (0..100_u128).map(|n| (n, n.checked_sub(1))).collect();
    let tree = tree(&chain);
    for depth in 1..=33 {
        assert!(tree.can_communicate(id(0), id(depth)), "down {depth}");
        assert!(tree.can_communicate(id(depth), id(0)), "up {depth}");
    }
    assert!(!tree.can_communicate(id(0), id(34)));
    assert!(!tree.can_communicate(id(34), id(0)));
}

#[test]
fn a_cycle_of_parents_ends() {
    let tree = tree(&[
        (1, Some(3)),
        (2, Some(1)),
        (3, Some(2)),
        (4, Some(4)),
        (5, None),
    ]);
    for (a, b) in [(1, 2), (2, 3), (3, 1)] {
        assert!(tree.can_communicate(id(a), id(b)));
        assert!(!tree.can_communicate(id(a), id(4)));
        assert!(!tree.can_communicate(id(5), id(a)));
    }
    assert!(tree.can_communicate(id(4), id(4)));
    assert_eq!(tree.ancestors(id(4)).count(), MAX_DEPTH);
}

#[test]
fn a_parent_that_is_gone_is_nobodys_partner() {
    let tree = tree(&[(1, Some(9)), (2, Some(9)), (3, None)]);
    assert!(tree.can_communicate(id(1), id(2)), "still siblings");
    assert!(!tree.can_communicate(id(1), id(9)));
    assert!(!tree.can_communicate(id(9), id(3)));
}

#[test]
fn the_snapshots_stay_far_below_a_kibibyte_per_workspace() {
    // A hash table grows at 7/8 and doubles then: twice that in the worst case,
    // and a byte of its own per slot.
    let slots = 16.0 / 7.0;
    let tree = (size_of::<(Uuid, Option<Uuid>)>() + 1) as f64 * slots;
    let directory = (super::super::directory::BYTES_PER_ENTRY + 1) as f64 * slots;
    // While it is reloaded, the old tree, the new one and the rows are there.
    let reload = 2.0 * tree + size_of::<store::Parent>() as f64 * 2.0;
    let total = reload + directory;
    assert!(total < 512.0, "{total} bytes");
}

proptest! {
    #[test]
    fn any_graph_is_walked_to_its_end_and_the_rule_is_symmetric(
        parents in prop::collection::vec(prop::option::of(0..12_u128), 10),
        caller in 0..12_u128,
        target in 0..12_u128,
    ) {
        let rows: Vec<_> = parents.into_iter().enumerate().map(|(n, parent)| (n as u128, parent)).collect();
        let tree = tree(&rows);
        prop_assert!(tree.ancestors(id(caller)).count() <= MAX_DEPTH);
        prop_assert_eq!(
            tree.can_communicate(id(caller), id(target)),
            tree.can_communicate(id(target), id(caller)),
        );
    }
}

/// An empty SQLite database.
async fn database() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::Config::default();
    config.database.url = Some(format!("sqlite://{}", dir.path().join("t.db").display()).into());
    let db = crate::store::connect(&config).await.unwrap();
    crate::store::migrate(&db).await.unwrap();
    (dir, db)
}

#[tokio::test]
async fn a_hundred_callers_after_a_change_share_one_query() {
    let (_dir, db) = database().await;
    let hierarchy = Hierarchy::new(db.clone(), Relay::new(&db));
    let ask = || async {
        let asking = (0..100).map(|_| hierarchy.tree());
        let trees: Vec<_> = futures_util::future::join_all(asking).await;
        let mut trees = trees.into_iter().map(Result::unwrap);
        let first = trees.next().unwrap();
        assert!(
            trees.all(|tree| Arc::ptr_eq(&tree, &first)),
            "one query, one tree"
        );
        first
    };
    let before = ask().await;
    assert!(
        Arc::ptr_eq(&before, &ask().await),
        "nothing changed, nothing is read"
    );
    hierarchy.forget();
    let after = ask().await;
    assert!(!Arc::ptr_eq(&before, &after), "a change is noticed");
    // A reader that goes away leaves its turn to the next.
    hierarchy.forget();
    drop(futures_util::FutureExt::now_or_never(hierarchy.tree()));
    assert!(!Arc::ptr_eq(&after, &ask().await));
}

#[tokio::test]
async fn a_status_read_before_a_change_is_not_believed_after_it() {
    use super::super::Directory;
    use super::super::model::Status::{Degraded, Online, Removed};

    let (_dir, db) = database().await;
    let directory = Directory::new(db.clone(), Relay::new(&db));
    let (one, two) = (id(1), id(2));
    let before = directory.before();
    directory.confirm(before, [(one, Online), (two, Degraded)]);
    assert_eq!(directory.status(one).await.unwrap(), Some(Online));
    assert_eq!(directory.status(two).await.unwrap(), Some(Degraded));
    // The row of one is gone by the time its status is asked for again.
    directory.forget(one);
    directory.confirm(before, [(one, Online)]);
    assert_eq!(directory.status(one).await.unwrap(), None);
    directory.confirm(directory.before(), [(two, Removed)]);
    assert_eq!(directory.status(two).await.unwrap(), None);
    directory.confirm(directory.before(), [(two, Online)]);
    directory.forget_all_here();
    assert_eq!(directory.status(two).await.unwrap(), None);
}
