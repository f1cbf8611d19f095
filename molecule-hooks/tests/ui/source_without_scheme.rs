use molecule_hooks::{BuildContext, BuildSourceResult, NoConfig, register_plugin_source};

fn build(_: NoConfig, _: &BuildContext) -> BuildSourceResult {
    Ok(None)
}

register_plugin_source! {
    name: "subject",
    description: "Answers to nothing",
    config: NoConfig,
    build: build,
}

fn main() {}
