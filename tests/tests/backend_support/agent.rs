//! The agent under test: a shell script that writes down what it saw when it
//! started, and then serves it over HTTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tar::{Builder, EntryType, Header};

/// Runs in a container and as a process alike. Variables steer it:
/// `TEST_EXIT` ends it at once with that code, `TEST_STUBBORN` makes it and a
/// child ignore polite signals.
pub(crate) const SCRIPT: &str = r#"#!/bin/sh
B=/bin/busybox
if [ -n "$TEST_EXIT" ]; then exit "$TEST_EXIT"; fi
if [ -n "$PORT" ]; then WWW="$PWD/www"; else WWW=/tmp/www; PORT=8000; fi
$B rm -rf "$WWW"
$B mkdir -p "$WWW"
(cd "$WORKSPACE_CONFIG_PATH" && $B find . | while read -r f; do $B stat -c '%n|%a|%u|%g|%F' "$f"; done) > "$WWW/files"
$B cp -r "$WORKSPACE_CONFIG_PATH" "$WWW/configs"
$B env > "$WWW/env"
if [ -d /workspace ]; then $B stat -c '%u|%g' /workspace > "$WWW/workspace"; fi
if [ -n "$TEST_STUBBORN" ]; then trap '' TERM; $B sleep 300 & fi
echo ready > "$WWW/ready"
exec $B httpd -f -p "$PORT" -h "$WWW"
"#;

/// The statically linked busybox that is the whole userland of the agent.
pub(crate) fn busybox() -> PathBuf {
    let path = PathBuf::from("/bin/busybox");
    assert!(
        path.is_file(),
        "the backend tests need a static busybox (Debian: busybox-static)"
    );
    path
}

/// The agent's image: a tar with busybox and the script.
pub(crate) async fn root_file_system() -> Vec<u8> {
    root_file_system_with(&[]).await
}

/// The same with more folders: name, mode, owner.
pub(crate) async fn root_file_system_with(folders: &[(&str, u32, u64)]) -> Vec<u8> {
    file_system(folders, &[]).await
}

/// The same with commands of busybox under their own names.
#[allow(dead_code, reason = "not every suite needs it")]
pub(crate) async fn root_file_system_with_commands(commands: &[&str]) -> Vec<u8> {
    file_system(&[], commands).await
}

async fn file_system(folders: &[(&str, u32, u64)], commands: &[&str]) -> Vec<u8> {
    let busybox = tokio::fs::read(busybox()).await.expect("busybox");
    let mut tar = Builder::new_non_terminated(Vec::new());
    let mut add = async |path: &str, kind: EntryType, mode: u32, owner: u64, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)
            .await
            .expect("an entry");
    };
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        add(folder, EntryType::Directory, mode, 0, &[]).await;
    }
    for (folder, mode, owner) in folders {
        add(folder, EntryType::Directory, *mode, *owner, &[]).await;
    }
    let passwd = b"root:x:0:0::/:/bin/sh\n";
    for (name, mode, content) in [
        ("bin/busybox", 0o755, &busybox[..]),
        ("etc/passwd", 0o644, passwd),
        ("agent.sh", 0o755, SCRIPT.as_bytes()),
    ] {
        add(name, EntryType::Regular, mode, 0, content).await;
    }
    for command in commands {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        header.set_link_name("busybox").expect("a link");
        let none: &[u8] = &[];
        tar.append_data(&mut header, format!("bin/{command}"), none)
            .await
            .expect("an entry");
    }
    tar.into_inner().await.expect("an archive")
}

/// An image that has nothing but one program, which serves `/configs`.
pub(crate) async fn shell_less_file_system() -> Vec<u8> {
    let busybox = tokio::fs::read(busybox()).await.expect("busybox");
    let mut tar = Builder::new_non_terminated(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    tar.append_data(&mut header, "busybox", &busybox[..])
        .await
        .expect("an entry");
    tar.into_inner().await.expect("an archive")
}

/// A file as the agent found it when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenFile {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) folder: bool,
}

/// What the agent found when it started.
#[derive(Debug)]
pub(crate) struct Seen {
    url: String,
    pub(crate) files: BTreeMap<String, SeenFile>,
    pub(crate) env: Vec<(String, String)>,
}

impl Seen {
    /// Asks the agent at `url`, once it answers.
    pub(crate) async fn by_agent(url: &str) -> Self {
        wait_until_ready(url).await;
        let files = get(url, "files").await.expect("the list of files");
        let env = get(url, "env").await.expect("the environment");
        let pairs = env.lines().filter_map(|line| line.split_once('='));
        Self {
            url: url.to_owned(),
            files: files.lines().map(parse_file).collect(),
            env: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// All values of one variable.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.env
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The content of a config file.
    pub(crate) async fn content(&self, name: &str) -> Option<String> {
        get(&self.url, &format!("configs/{name}")).await
    }

    /// Owner and group of `/workspace`, where there is one.
    pub(crate) async fn workspace_owner(&self) -> Option<String> {
        Some(get(&self.url, "workspace").await?.trim().to_owned())
    }
}

fn parse_file(line: &str) -> (String, SeenFile) {
    let parts: Vec<&str> = line.split('|').collect();
    let [name, mode, uid, gid, kind] = parts[..] else {
        panic!("unexpected line {line:?}")
    };
    let file = SeenFile {
        mode: u32::from_str_radix(mode, 8).expect("a mode"),
        uid: uid.parse().expect("a user"),
        gid: gid.parse().expect("a group"),
        folder: kind == "directory",
    };
    (name.trim_start_matches("./").to_owned(), file)
}

pub(crate) async fn wait_until_ready(url: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while get(url, "ready").await.is_none() {
        assert!(
            Instant::now() < deadline,
            "the agent at {url} does not answer"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// True when something answers at `url`.
pub(crate) async fn answers(url: &str) -> bool {
    get(url, "ready").await.is_some()
}

/// What is served at a path, if it is.
pub(crate) async fn get(url: &str, path: &str) -> Option<String> {
    let call = async {
        let mut stream = TcpStream::connect(url.strip_prefix("http://")?)
            .await
            .ok()?;
        stream
            .write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), call)
        .await
        .ok()
        .flatten()
}
