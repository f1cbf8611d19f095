//! Archives of strangers: unpacked below their folder within the limits, or refused.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use molecule_hooks::{TreeLimits, archive};

/// Small, so that limits are reached.
const MAX_BYTES: u64 = 64 * 1024;
const MAX_ENTRIES: usize = 50;

fuzz_target!(|bytes: &[u8]| {
    let base = tempfile::tempdir().expect("a folder");
    let into = base.path().join("into");
    fs::create_dir(&into).expect("a folder");
    let mut limits = TreeLimits::default().with_bytes(MAX_BYTES);
    limits.entries = MAX_ENTRIES;
    let unpacked = archive::unpack_blocking(bytes, &into, &limits);
    let (mut entries, mut written) = (0, 0);
    count(&into, &mut entries, &mut written);
    assert!(entries <= MAX_ENTRIES && written <= MAX_BYTES);
    if let Ok(unpacked) = unpacked {
        assert_eq!(unpacked.bytes, written);
    }
    let beside = fs::read_dir(base.path()).expect("a folder").count();
    assert_eq!(beside, 1, "nothing is written beside the folder");
});

/// Adds up what is in a folder, where nothing but folders and files may be.
fn count(folder: &Path, entries: &mut usize, bytes: &mut u64) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("what it is");
        *entries += 1;
        match metadata.is_dir() {
            true => count(&entry.path(), entries, bytes),
            false => {
                assert!(metadata.is_file());
                *bytes += metadata.len();
            }
        }
    }
}
