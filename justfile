# What CI runs is `scripts/test`; the recipes are its parts. `just` lists them.

features := "--workspace --all-features"

_default:
    @just --list --unsorted

# Everything CI checks; arguments go to the test runner
test *arguments:
    scripts/test {{ arguments }}

# Only the tests: just fast -E 'test(token)'
fast *arguments:
    scripts/test --fast {{ arguments }}

# Formats the code
fmt:
    cargo fmt --all

# Lints; a warning is an error
clippy:
    cargo clippy {{ features }} --all-targets -- -D warnings

# Builds the documentation; a broken link is an error
doc *arguments:
    RUSTDOCFLAGS="-D warnings" cargo doc {{ features }} --no-deps {{ arguments }}

# Licenses, bans and advisories; needs cargo-deny
deny:
    cargo deny check

# One command that boots a real workspace and shows what happened
quickstart *arguments:
    cargo run -p quickstart -- {{ arguments }}

# A development server with two hook crates; its data goes to ./data
dev *arguments:
    MOLECULE_ENV=development cargo run -p custom-server -- {{ arguments }}
