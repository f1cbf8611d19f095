use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn bounded() -> TreeLimits {
    let mut limits = TreeLimits::default().with_bytes(64 * 1024);
    (limits.entries, limits.depth) = (100, 8);
    limits
}

/// Whatever the archive was, what is there keeps the limits.
fn check(archive: &[u8]) {
    let limits = bounded();
    let (dir, result) = try_unpack(archive, &limits);
    let found = listed(&dir.path().join("into"));
    assert!(found.len() <= limits.entries);
    for (name, _) in &found {
        assert!(name.trim_end_matches('/').split('/').count() <= limits.depth + 1);
    }
    if let Ok(unpacked) = result {
        assert_eq!(unpacked.entries, found.len());
    }
}

fn entries() -> impl Strategy<Value = Vec<(String, u8, Vec<u8>)>> {
    let name = prop_oneof![
        "[a-c./]{1,12}",
        "(\\./)?[a-c](/[A-Ca-c]){0,3}/?",
        Just("../x".to_owned()),
    ];
    let flag = prop_oneof![
        4 => Just(b'0'),
        2 => Just(b'5'),
        1 => Just(b'x'),
        1 => Just(b'L'),
        1 => any::<u8>(),
    ];
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(records_of(&[("path", "a/b")])),
        Just(b"a/c\0".to_vec()),
        Just(Vec::new()),
    ];
    proptest::collection::vec((name, flag, content), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_are_an_archive_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        check(&bytes);
        check(&[&[0x1f, 0x8b, 8, 0][..], &bytes].concat());
        check(&gzip(&bytes));
    }

    #[test]
    fn any_entries_keep_within_the_folder(entries in entries()) {
        let add = |tar: Tar, (name, flag, content): &(String, u8, Vec<u8>)| {
            tar.entry(name, *flag, content)
        };
        let tar = entries.iter().fold(Tar::default(), add).end();
        check(&tar);
        check(&gzip(&tar));
    }

    #[test]
    fn a_changed_byte_changes_nothing_else(
        entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>(), fix in any::<bool>(),
    ) {
        let add = |tar: Tar, (name, flag, content): &(String, u8, Vec<u8>)| {
            tar.entry(name, *flag, content)
        };
        let mut tar = entries.iter().fold(Tar::default(), add).end();
        let at = at.index(tar.len());
        tar[at] = byte;
        if fix {
            let start = at / BLOCK * BLOCK;
            let block: [u8; BLOCK] = tar[start..start + BLOCK].try_into().unwrap();
            tar[start..start + BLOCK].copy_from_slice(&summed(block));
        }
        check(&tar);
    }

    #[test]
    fn a_good_tree_comes_out_whole(
        files in proptest::collection::btree_map("[a-z]{1,8}(/[a-z0-9_-]{1,8}){0,3}", ".{0,200}", 0..10),
    ) {
        // A name that is a file cannot be a folder as well.
        let names: Vec<&String> = files.keys().collect();
        let is_folder = |name: &str| names.iter().any(|other| other.starts_with(&format!("{name}/")));
        let files: BTreeMap<&String, &String> =
            files.iter().filter(|(name, _)| !is_folder(name)).collect();
        let add = |tar: Tar, (name, text): (&&String, &&String)| tar.file(name, text);
        let tar = files.iter().fold(Tar::default(), add).end();
        for archive in [tar.clone(), gzip(&tar)] {
            let found: BTreeMap<String, String> = unpack_default(&archive)
                .unwrap()
                .into_iter()
                .filter(|(name, _)| !name.ends_with('/'))
                .collect();
            prop_assert_eq!(found.len(), files.len());
            for (name, text) in &files {
                prop_assert_eq!(found.get(*name), Some(*text));
            }
        }
    }
}
