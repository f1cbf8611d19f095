# What CI runs is `scripts/test`; the recipes are its parts. `just` lists them.

features := "--workspace --all-features"

_default:
    @just --list --unsorted

# Everything CI checks; arguments go to the test runner
[positional-arguments]
test *arguments:
    scripts/test "$@"

# Only the tests: just fast -E 'test(token)'
[positional-arguments]
fast *arguments:
    scripts/test --fast "$@"

# Formats the code
fmt:
    cargo fmt --all

# Lints; a warning is an error
clippy:
    cargo clippy {{ features }} --all-targets -- -D warnings

# Builds the documentation; a broken link is an error
[positional-arguments]
doc *arguments:
    RUSTDOCFLAGS="-D warnings" cargo doc {{ features }} --no-deps "$@"

# Licenses, bans and advisories; needs cargo-deny
deny:
    cargo deny check

# One command that boots a real workspace and shows what happened
[positional-arguments]
quickstart *arguments:
    cargo run -p quickstart -- "$@"

# A development server with two hook crates, built and started again on every save; its data stays in ./data
[positional-arguments]
dev *arguments:
    scripts/dev --package custom-server --admin-token data/dev-admin-token -- "$@"

# The same in containers, with PostgreSQL
[positional-arguments]
dev-compose *arguments:
    docker compose -f docker-compose.dev.yml up "$@"

# A server of your own, from templates/server
[positional-arguments]
new-server *arguments:
    scripts/new-server "$@"

# A hook crate of your own, from templates/hook
[positional-arguments]
new-hook *arguments:
    scripts/new-hook "$@"

# How long a server takes to compile and how big it is
[positional-arguments]
build-times *arguments:
    scripts/build-times "$@"
