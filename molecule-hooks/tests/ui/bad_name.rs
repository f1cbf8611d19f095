use molecule_hooks::{BuildContext, BuildResult, NoConfig, register_hook};

fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
    Ok(None)
}

register_hook! {
    name: "My_Hook",
    description: "Not lower-kebab",
    config: NoConfig,
    build: build,
}

fn main() {}
