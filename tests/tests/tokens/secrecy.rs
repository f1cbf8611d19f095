//! Secrets in the sections of hooks, in mappings too: no command, log, reply or row shows them.

use molecule_hooks::testing::gitlab::GitlabStandIn;
use molecule_hooks::testing::oauth2::OauthIssuer;
use molecule_hooks::testing::vault::VaultStandIn;
use molecule_hooks::testing::{Fault, Reply};
use serde_json::{Value, json};

use crate::process::Deployment;

const SERVER: &str = env!("CARGO_BIN_EXE_tokens-server");
/// In every secret that is configured; of no shape that anybody would recognise.
const PLANT: &str = "plant-7f3a91c2";
const BAD_CONFIG: i32 = 78;

fn plant(what: &str) -> String {
    format!("{PLANT}-{what}")
}

/// The services that the hooks of one server ask.
struct Services {
    gitlab: GitlabStandIn,
    issuer: OauthIssuer,
    vault: VaultStandIn,
}

impl Services {
    async fn start() -> Self {
        let gitlab = GitlabStandIn::start(&plant("manager")).await.unwrap();
        gitlab.add_project("team/app");
        let issuer = OauthIssuer::start().await.unwrap();
        issuer.add_client("molecule", &plant("client"), &[]);
        let vault = VaultStandIn::start().await.unwrap();
        vault.add_token(&plant("vault-token"), None);
        vault.put("common", json!({ "FROM_VAULT": plant("stored") }));
        Self {
            gitlab,
            issuer,
            vault,
        }
    }

    /// A deployment with a secret in every place that can hold one.
    fn deployment(&self) -> Deployment {
        let mut deployment = Deployment::of(SERVER);
        let common = deployment.dir.path().join("common.env");
        let text = format!("FROM_FILE={}\n", plant("line"));
        std::fs::write(&common, text).unwrap();
        let extra =
            json!({ "resource": plant("extra"), "tenant": plant("extra \"two\" \n lines") });
        deployment
            .set("log.filter", "trace")
            .set(
                "hooks.config.gitlab-token",
                json!({ "url": self.gitlab.url(), "token": plant("manager"), "project": "team/app" }),
            )
            .set(
                "hooks.config.oauth2",
                json!({
                    "token_url": self.issuer.token_url(),
                    "client_id": "molecule",
                    "client_secret": plant("client"),
                    "extra_parameters": extra,
                    "variable": "API_TOKEN",
                }),
            )
            .set(
                "hooks.config.vault",
                json!({ "url": self.vault.url(), "token": plant("vault-token"), "paths": ["common"] }),
            )
            .set(
                "hooks.config.env-file",
                json!({ "common_file": common, "sops_env": { "SOPS_AGE_KEY": plant("age-key") } }),
            );
        deployment
    }

    /// Everything they handed out.
    fn handed_out(&self) -> Vec<String> {
        let of_gitlab = self.gitlab.tokens().into_iter().map(|made| made.token);
        of_gitlab.chain(self.issuer.issued()).collect()
    }
}

#[track_caller]
fn assert_clean(place: &str, text: &str, secrets: &[String]) {
    let planted = [PLANT.to_owned()];
    for secret in secrets.iter().chain(&planted) {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(secret)).collect();
        assert!(lines.is_empty(), "{secret} is in {place}: {lines:#?}");
    }
}

/// What a command says and how it ends.
fn run(deployment: &Deployment, command: &[&str]) -> (Option<i32>, String) {
    let file = deployment.write_config();
    let mut process = deployment.command(command);
    let output = process.env("MOLECULE_CONFIG", file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_shows_a_secret_of_a_section() {
    let services = Services::start().await;
    let deployment = services.deployment();
    for (command, shown) in [
        (&["config", "check"][..], ""),
        (&["config", "example"], "extra_parameters"),
        (&["hooks"], "oauth2"),
        (&["hooks", "--json"], "extra_parameters"),
        (&["build-info"], "oauth2"),
        (&["migrate"], ""),
        (&["doctor"], ""),
    ] {
        let (code, said) = run(&deployment, command);
        assert_ne!(code, Some(BAD_CONFIG), "{command:?}: {said}");
        assert!(said.contains(shown), "{command:?}: {said}");
        assert_clean(&format!("{command:?}"), &said, &[]);
    }
    assert_eq!(services.issuer.upstream().request_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_problem_names_the_key_and_not_the_secret_next_to_it() {
    let services = Services::start().await;
    let planted = plant("misplaced");
    let table: [(&str, Value, &str); 9] = [
        // Not a mapping, or one with more than texts
        (
            "oauth2.extra_parameters",
            json!(planted),
            "extra_parameters",
        ),
        (
            "oauth2.extra_parameters",
            json!([planted]),
            "extra_parameters",
        ),
        (
            "oauth2.extra_parameters",
            json!({ "resource": [planted] }),
            "extra_parameters.resource",
        ),
        (
            "oauth2.extra_parameters",
            json!({ "resource": { "deeper": planted } }),
            "extra_parameters.resource",
        ),
        // Refused by the hook, with a secret beside what is wrong
        (
            "oauth2.extra_parameters",
            json!({ "client_secret": planted }),
            "extra_parameters must not hold client_secret",
        ),
        ("env-file.sops_env", json!({ "A-B": planted }), "sops_env"),
        ("env-file.sops_env", json!({ "A": [planted] }), "sops_env.A"),
        (
            "vault.paths",
            json!(["common", format!("{planted} and more")]),
            "paths[1]",
        ),
        ("vault.token", json!({ "value": planted }), "token"),
    ];
    for (field, value, named) in table {
        let mut deployment = services.deployment();
        deployment.set(&format!("hooks.config.{field}"), value.clone());
        for command in [&["config", "check"][..], &["serve"]] {
            let (code, said) = run(&deployment, command);
            assert_eq!(code, Some(BAD_CONFIG), "{field} {value}: {said}");
            assert!(said.contains(named), "{field} {value}: {said}");
            assert_clean(&format!("{command:?} of {field}"), &said, &[]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_logs_everything_logs_no_secret_of_a_hook() {
    // Given a server that logs all there is, and a workspace
    let services = Services::start().await;
    let mut deployment = services.deployment();
    let server = deployment.start().await;
    let id = server.create(json!({ "name": "one" })).await;
    server.wait_for_status(&id, "online").await;

    // Then its agent has the secrets
    let agent = deployment.agent(&id).expect("its process");
    let environ = std::fs::read(format!("/proc/{agent}/environ")).unwrap();
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let tokens = services.handed_out();
    assert_eq!(tokens.len(), 2);
    let expected = [plant("stored"), plant("line")];
    for value in tokens.iter().chain(&expected) {
        assert!(environ.contains(value), "the agent has no {value}");
    }
    // And each token is served, to who may have it
    let credentials = format!("/workspaces/{id}/credentials");
    for (provider, token) in [("gitlab-token", &tokens[0]), ("oauth2", &tokens[1])] {
        let path = format!("{credentials}/{provider}");
        let reply = server.admin("GET", &path).send().await;
        assert_eq!(reply.json()["token"], **token);
        let refused = server.request("GET", &path).send().await;
        assert_eq!(refused.status, 401);
    }

    // When everything else is looked at, and the services get careless
    let mut replies = Vec::new();
    for path in [
        credentials.clone(),
        "/workspaces".to_owned(),
        format!("/workspaces/{id}"),
        format!("/admin/workspaces/{id}/env-plan"),
        "/admin/build-info".to_owned(),
        "/events".to_owned(),
        "/metrics".to_owned(),
    ] {
        let reply = server.admin("GET", &path).send().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        replies.push((path, reply));
    }
    services.gitlab.break_down(Fault::Fails(401));
    services.vault.break_down(Fault::Fails(401));
    let quoted = services.issuer.last_form();
    assert_eq!(quoted["resource"], plant("extra"));
    let quoted = json!({ "error": plant("extra"), "error_description": quoted });
    let issuer = services.issuer.upstream();
    issuer.default_reply(Reply::json(400, quoted));
    let try_out = server.admin("POST", "/admin/env-plan");
    let reply = try_out.json(json!({ "name": "dry" })).send().await;
    replies.push(("the dry run".to_owned(), reply));
    // Another server has no token yet and must ask for one
    let first_log = server.kill_9();
    let server = deployment.start().await;
    for provider in ["gitlab-token", "oauth2"] {
        let path = format!("{credentials}/{provider}");
        let reply = server.admin("GET", &path).send().await;
        reply.assert_error(500, "token refresh failed");
    }
    let other = server.create(json!({ "name": "two" })).await;
    let failed = server.wait_for_status(&other, "failed").await;
    let log = server.stop().await;

    // Then nothing of it shows anywhere
    for (path, reply) in &replies {
        assert_clean(path, &reply.text, &tokens);
    }
    assert_clean("the row", &failed.to_string(), &tokens);
    assert!(log.contains("token refresh failed"), "{log}");
    for log in [first_log, log] {
        assert_clean("the log", &log, &tokens);
    }
}
