//! Keys and signatures of strangers: none, or not trusted.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| molecule_core::fuzzing::signature(bytes));
