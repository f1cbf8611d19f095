use molecule_hooks::{BuildResult, NoConfig, register_hook};

fn build(_: NoConfig) -> BuildResult {
    Ok(None)
}

register_hook! {
    name: "subject",
    description: "Builds without a context",
    config: NoConfig,
    build: build,
}

fn main() {}
