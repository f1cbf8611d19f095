//! The manifest of a plugin: any bytes are one, and none holds more than it may.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| molecule_core::fuzzing::manifest(bytes));
