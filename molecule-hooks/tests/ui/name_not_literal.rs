use molecule_hooks::{BuildContext, BuildResult, NoConfig, register_hook};

fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
    Ok(None)
}

const NAME: &str = "subject";

register_hook! {
    name: NAME,
    description: "The name is a constant",
    config: NoConfig,
    build: build,
}

fn main() {}
