//! Trees of files with any names and contents: copied whole or refused, with the digest of what is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| molecule_core::fuzzing::tree(bytes));
