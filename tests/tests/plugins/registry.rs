//! `GET /plugins` and `GET /plugins/sources`.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::scripted::{Scripted, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_is_listed_for_everybody() {
    let source = Scripted::default();
    let (app, _) = source.start().await;
    // given no folder yet
    let list = |query: &'static str| {
        let request = app.get(&format!("/plugins{query}"));
        async move {
            let reply = request.send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            let Value::Array(list) = reply.json() else {
                panic!("a list: {}", reply.text);
            };
            list
        }
    };
    assert!(list("").await.is_empty());
    // when there are plugins, a hook crate, and what is none of both
    let registry = app.dir.path().join("plugins");
    write(
        &registry,
        "zeta/plugin.yaml",
        "version: \"2\"\nruntimes: [claude-code]\ntags: [a, 1]",
    );
    write(
        &registry,
        "alpha/plugin.yaml",
        "name: other\nversion: 1.0\nskills: [s]",
    );
    write(&registry, "beta/plugin.yaml", "runtimes: [langgraph]");
    write(&registry, "crate/Cargo.toml", "");
    write(&registry, "broken/plugin.yaml", "{{{");
    write(&registry, "bad name/plugin.yaml", "");
    write(&registry, ".hidden/plugin.yaml", "");
    write(app.dir.path(), "secret/plugin.yaml", "author: nobody");
    symlink(app.dir.path().join("secret"), registry.join("linked")).expect("a link");
    // then they are listed by name, with what their manifests say
    let names = |list: &[Value]| -> Vec<String> {
        list.iter()
            .map(|row| row["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let all = list("").await;
    assert_eq!(names(&all), ["alpha", "beta", "broken", "crate", "zeta"]);
    assert_eq!(
        all[0],
        json!({ "name": "alpha", "version": "", "description": "", "author": "", "tags": [],
                "skills": ["s"], "runtimes": [] })
    );
    assert_eq!(all[4]["tags"], json!(["a"]));
    assert_eq!(
        names(&list("?runtime=claude_code").await),
        ["alpha", "broken", "crate", "zeta"]
    );
    assert_eq!(
        names(&list("?runtime=lang-graph").await),
        ["alpha", "broken", "crate"]
    );
    assert_eq!(names(&list("?runtime=").await).len(), 5);
    // And the sources too
    let reply = app.get("/plugins/sources").send().await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({ "schemes": ["github", "local", "test"] }))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_registry_is_bounded_and_holds_up_nobody() {
    let source = Scripted::default();
    let (app, _) = source.start().await;
    let registry = app.dir.path().join("plugins");
    for number in 0..6_000 {
        fs::create_dir_all(registry.join(format!("p{number:05}"))).expect("a folder");
    }
    let started = Instant::now();
    let lists = (0..8).map(|_| app.get("/plugins").send());
    let lists = futures_util::future::join_all(lists).await;
    let took = started.elapsed();
    for reply in lists {
        assert_eq!(reply.json().as_array().map(Vec::len), Some(5_000));
    }
    assert!(took < Duration::from_secs(60), "{took:?}");
}
