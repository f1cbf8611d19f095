//! A deployment for tests that was put together wrongly: two versions of one hook crate,
//! two crates with one name, and one that is a dependency and not named in `main.rs`.
//!
//! What cargo and the linker would have made of that is submitted by hand.

use std::process::ExitCode;

use molecule_core::__private::{EmbeddedManifest, inventory};
use molecule_hooks::{HookDescriptor, NoConfig};

fn main() -> ExitCode {
    molecule_core::cli::main()
}

const fn hook(name: &'static str, package: &'static str, version: &'static str) -> HookDescriptor {
    HookDescriptor::new::<NoConfig>(name, version, "A hook of a test", false, |_, _| Ok(None))
        .in_package(package)
}

inventory::submit! {
    hook("vault", "vault", "0.1.0").with_contract(
        r#"{"kit_version":1,"hook":"vault","crate_version":"0.1.0","checks":[{"name":"call-failed","result":"passed"}]}"#,
    )
}

inventory::submit! {
    hook("vault", "vault", "0.2.0").with_contract(
        r#"{"kit_version":1,"hook":"vault","crate_version":"0.1.0","checks":[{"name":"call-failed","result":"passed"}]}"#,
    )
}

inventory::submit! { hook("proxy", "acme-proxy", "1.0.0") }

inventory::submit! { hook("proxy", "corporate-proxy", "3.1.4") }

inventory::submit! {
    EmbeddedManifest::new(
        r#"{
            "package": { "name": "doubled-server", "version": "7.0.0" },
            "git": { "revision": "0123456789abcdef0123456789abcdef01234567", "dirty": true },
            "rustc": "rustc 1.95.0 (a test)",
            "source_date_epoch": 1700000000,
            "hook_crates": [
                { "name": "gitlab-token", "version": "0.4.0" },
                { "name": "vault", "version": "0.1.0" }
            ]
        }"#,
    )
}
