use molecule_hooks::{BuildContext, BuildResult, NoConfig, register_plugin_source};

fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
    Ok(None)
}

register_plugin_source! {
    name: "subject",
    scheme: "subject",
    description: "Builds a hook instead of a source",
    config: NoConfig,
    build: build,
}

fn main() {}
