use molecule_hooks::{BuildContext, BuildResult, register_hook};

struct Settings;

fn build(_: Settings, _: &BuildContext) -> BuildResult {
    Ok(None)
}

register_hook! {
    name: "subject",
    description: "Its settings cannot be read",
    config: Settings,
    build: build,
}

fn main() {}
