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

# A development server with two hook crates, built and started again on every save; its data stays in ./data
dev *arguments:
    scripts/dev --package custom-server --admin-token data/dev-admin-token -- {{ arguments }}

# The same in containers, with PostgreSQL
dev-compose *arguments:
    docker compose -f docker-compose.dev.yml up {{ arguments }}

# A server of your own, from templates/server
new-server *arguments:
    scripts/new-server {{ arguments }}

# A hook crate of your own, from templates/hook
new-hook *arguments:
    scripts/new-hook {{ arguments }}

# How long a server takes to compile and how big it is
build-times *arguments:
    scripts/build-times {{ arguments }}
