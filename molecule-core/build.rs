//! Compiles the helper program of plugin delivery (`helper/main.rs`), which the Docker
//! backend embeds and runs inside containers: see `src/backend/docker/plugins`.
//!
//! It is a crate of its own that shares nothing with the server's: no dependencies, no
//! standard library, and none of the flags that cargo was given for the server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Where the program knows the system calls.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=helper");
    println!("cargo::rerun-if-changed=src/backend/plugins/transaction");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let Some(folder) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    let program = folder.join("plugins-helper");
    let text = match build(&program) {
        Ok(()) => format!("Some(include_bytes!({:?}))", program.display().to_string()),
        Err(reason) => {
            println!(
                "cargo::warning=the helper program of plugin delivery is left out ({reason}); \
                 plugins are delivered with the shell of the image"
            );
            "None".to_owned()
        }
    };
    if let Err(error) = fs::write(folder.join("plugins_helper.rs"), text) {
        println!("cargo::error=the output folder cannot be written: {error}");
    }
}

fn build(program: &Path) -> Result<(), String> {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let (system, architecture) = (
        variable("CARGO_CFG_TARGET_OS"),
        variable("CARGO_CFG_TARGET_ARCH"),
    );
    if system != "linux" || !ARCHITECTURES.contains(&architecture.as_str()) {
        return Err(format!("not known on {architecture} {system}"));
    }
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command
        .args(["--edition", "2024", "--crate-name", "plugins_helper"])
        .args(["--target", &variable("TARGET")])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        // Where it is loaded is fixed, so nothing has to be put right before it runs.
        .args(["-C", "relocation-model=static"]);
    for argument in ["-nostartfiles", "-nostdlib", "-static"] {
        command.args(["-C", &format!("link-arg={argument}")]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg({
            let mut option = std::ffi::OsString::from("linker=");
            option.push(linker);
            option
        });
    }
    command.arg("helper/main.rs").arg("-o").arg(program);
    let output = command
        .output()
        .map_err(|error| format!("the compiler does not run: {}", error.kind()))?;
    if output.status.success() {
        return Ok(());
    }
    // One line: cargo shows no more of a warning.
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find(|line| line.starts_with("error"));
    Err(error.unwrap_or("the compiler failed").to_owned())
}
