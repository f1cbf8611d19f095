//! A hook of a stranger that panics, and one that hangs.

use crate::operator::with_server;
use crate::story::Story;

#[test]
fn a_hook_that_panics_or_hangs_fails_its_workspace_and_is_named() {
    // given a server with a hook that does what the name of the workspace says
    let story = Story::begin("misbehaving");
    story.make("new-hook", &["acme-moody"]);
    story.edit(
        "acme-moody/src/hook.rs",
        "(&self, _: &WorkspaceContext",
        "(&self, workspace: &WorkspaceContext",
    );
    story.edit(
        "acme-moody/src/hook.rs",
        "env.set(ENDPOINT, &self.endpoint)?;",
        "match workspace.name.as_str() {\n            \"panics\" => panic!(\"moody\"),\n            \
         \"hangs\" => std::future::pending().await,\n            _ => env.set(ENDPOINT, &self.endpoint)?,\n        }",
    );
    story.make("new-server", &["acme-patient"]);
    story.add_hook("acme-patient", "acme-moody", true);
    story.cargo_succeeds("acme-patient", &["build"]);

    let (binary, folder) = (story.binary("acme-patient"), story.path("acme-patient"));
    let hooks =
        "  timeout_secs: 1\n  config:\n    acme-moody: { endpoint: https://a.example.com }\n";
    with_server(&binary, &folder, hooks, async |api, server| {
        let panicked = ["this is a bug in the hook", "panicked: moody"];
        let hung = ["did not finish within 1 s", "hooks.timeout"];
        for (name, parts) in [("panics", panicked), ("hangs", hung)] {
            // when a workspace starts
            let before = server.said().len();
            let id = api.create(name).await;

            // then it fails, and the log says which hook it was, why, and what to do
            api.wait_for(&id, "failed").await;
            server.wait_for(before, parts[0]);
            let log = server.said()[before..].to_owned();
            let line = log.lines().find(|line| line.contains(parts[0])).unwrap();
            for part in ["acme-moody", parts[1]] {
                assert!(line.contains(part), "no {part:?} in: {line}");
            }

            // as does the plan of its next boot
            let plan = api.get(&format!("/admin/workspaces/{id}/env-plan")).await;
            assert_eq!(plan["error"]["hook"], "acme-moody", "{plan:#}");
        }
        // and the others are none the worse for it
        let id = api.create("calm").await;
        api.wait_for(&id, "online").await;
    });
}
