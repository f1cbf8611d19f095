//! What `doctor` says about a Docker daemon and what its images come from.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use molecule_tests::Engine;
use molecule_tests::TestDatabase;
use serde_json::json;

use crate::doctor::{assert_says, doctor};
use crate::rounds::only;

const SKIP: &str = "MOLECULE_TEST_SKIP_DOCKER";

/// Something on this machine that answers requests with a status, and hands over
/// what it was asked.
fn answering(status: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, asked)
}

fn is_wanted() -> bool {
    let skipped = std::env::var(SKIP).is_ok_and(|value| value == "1");
    if skipped {
        eprintln!("skipped: {SKIP}=1");
    }
    !skipped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_and_a_registry_that_are_well_are_described() {
    if !is_wanted() {
        return;
    }
    let database = TestDatabase::create(Engine::Sqlite).await;
    // One that wants to know who asks is there all the same.
    let (registry, asked) = answering("401 Unauthorized");
    let (code, said) = doctor(database.url(), |config| {
        config["backend"] = json!({ "kind": "docker", "docker": {
            "image_registry": format!("{registry}/acme"),
            "registries": { registry.clone(): { "username": "u", "password": "planted-password" } },
        }});
    });
    assert_eq!(code, Some(0), "{said}");
    assert_says(&said, "ok    docker: version ", "");
    assert!(said.contains(", API version 1."), "{said}");
    assert_says(&said, "ok    platform: linux/", "");
    assert!(said.contains("images as the daemon prefers"), "{said}");
    assert_says(&said, &format!("ok    registry: {registry} answers"), "");
    assert_says(&said, "    docker disk: images ", "");
    assert!(said.contains("MiB free where the daemon stores"), "{said}");
    assert_says(&said, "    storage driver: ", "");
    assert_says(&said, "    limits: cgroup version ", "");
    assert_says(&said, "ok    tiers: no agent is privileged", "");
    assert_says(&said, "ok    workspaces on docker: 0 with a container", "");
    assert!(!said.contains("git"), "{said}");
    // Nobody was told a credential.
    let request = asked.recv().expect("a request").to_lowercase();
    assert!(request.starts_with("get /v2/ "), "{request}");
    assert!(!request.contains("authorization") && !said.contains("planted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_doubtful_about_docker_is_told_with_advice() {
    if !is_wanted() {
        return;
    }
    let database = TestDatabase::create(Engine::Sqlite).await;
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = gone.local_addr().expect("an address").to_string();
    let (strange, _asked) = answering("404 Not Found");
    let (code, said) = doctor(database.url(), |config| {
        config["backend"] = json!({ "kind": "docker", "docker": {
            "image_registry": format!("{gone}/acme"),
            "images": { "langgraph": format!("{strange}/a/b:1") },
            "image_platform": "linux/s390x",
            "privileged_tiers": true,
        }});
    });
    assert_eq!(code, Some(0), "{said}");
    assert_says(
        &said,
        &format!("warn  registry: {gone} cannot be reached"),
        "cannot be pulled",
    );
    assert_says(
        &said,
        &format!("warn  registry: {strange} answers 404"),
        "image_registry",
    );
    assert_says(&said, "warn  platform: the daemon is linux/", "emulat");
    assert_says(
        &said,
        "warn  tiers: agents of tiers 3 and 4 are privileged",
        "controls the host",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_registry_git_and_the_repositories_are_looked_at() {
    if !is_wanted() {
        return;
    }
    let database = TestDatabase::create(Engine::Sqlite).await;
    let (host, asked) = answering("200 OK");
    let prefix = format!("http://oauth2:planted-token@{host}/acme/template-");
    let (code, said) = doctor(database.url(), |config| {
        config["backend"] = json!({ "kind": "docker", "docker": {
            "local_build": { "repo_prefix": prefix },
        }});
    });
    assert_eq!(code, Some(0), "{said}");
    assert_says(&said, "ok    git: version ", "");
    assert_says(&said, "ok    repositories: 127.0.0.1 answers", "");
    let request = asked.recv().expect("a request").to_lowercase();
    assert!(
        !request.contains("authorization") && !said.contains("planted"),
        "{request}{said}"
    );

    // Without them nothing can be built, and nothing else was configured.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = gone.local_addr().expect("an address").to_string();
    let local = |images: serde_json::Value| {
        let gone = gone.clone();
        doctor(database.url(), move |config| {
            config["backend"] = json!({ "kind": "docker", "docker": {
                "local_build": { "repo_prefix": format!("http://{gone}/acme/template-") },
                "images": images,
            }});
        })
    };
    let (code, said) = local(json!({}));
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        "FAIL  repositories: 127.0.0.1 cannot be reached",
        "image_registry",
    );
    let (code, said) = local(json!({ "langgraph": "acme/agent:1" }));
    assert_eq!(code, Some(0), "{said}");
    assert_says(
        &said,
        "warn  repositories: 127.0.0.1 cannot be reached",
        "image_registry",
    );
}

/// A volume of a server whose database is gone, removed at the end.
struct LeftVolume(String);

impl LeftVolume {
    fn new(instance: &str) -> Self {
        let name = format!("left-{instance}");
        let owner = format!("molecule.platform.instance={instance}");
        let managed = "molecule.platform.managed=true";
        let args = [
            "volume", "create", "--label", managed, "--label", &owner, &name,
        ];
        let made = Command::new("docker").args(args).output();
        assert!(made.expect("the Docker command").status.success());
        Self(name)
    }
}

impl Drop for LeftVolume {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["volume", "rm", &self.0])
            .output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_database_left_on_docker_is_told() {
    if !is_wanted() {
        return;
    }
    // Given a volume of an instance that sorts before all others
    let instance = format!("-{}", uuid::Uuid::new_v4().simple());
    let _left = LeftVolume::new(&instance);
    let app = only(Engine::Sqlite, |_| {}).start().await;
    let docker = |config: &mut serde_json::Value| {
        config["backend"] = json!({ "kind": "docker", "docker": {
            "images": { "langgraph": "acme/agent:1" },
        }});
    };

    // Then it is named, with what to do about it
    let (code, said) = doctor(app.database.url(), docker);
    assert_eq!(code, Some(0), "{said}");
    assert_says(
        &said,
        &format!("{instance} (0 containers, 1 volumes)"),
        "a database that is gone",
    );

    // But not to who does not know yet what is its own
    let fresh = TestDatabase::create(Engine::Sqlite).await;
    let (_, said) = doctor(fresh.url(), docker);
    assert!(said.contains("pending"), "{said}");
    assert!(!said.contains(&instance), "{said}");
}
