#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod hostile;
mod properties;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::header::BLOCK;
use super::*;

/// A tar file that is written by hand, so that it can be wrong.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, name: &[u8], flag: u8, size: u64, content: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000644");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[156] = flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        self.0.extend_from_slice(&summed(block));
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn entry(self, name: &str, flag: u8, content: &[u8]) -> Self {
        self.raw(name.as_bytes(), flag, content.len() as u64, content)
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, b'0', content.as_bytes())
    }

    fn folder(self, name: &str) -> Self {
        self.entry(name, b'5', b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        self.entry("PaxHeader", b'x', &records_of(records))
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

fn summed(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn records_of(records: &[(&str, &str)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        all.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
    }
    all
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Unpacks into an empty folder, beside which nothing may appear.
fn try_unpack(
    archive: &[u8],
    limits: &TreeLimits,
) -> (tempfile::TempDir, Result<Unpacked, ArchiveError>) {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("into");
    fs::create_dir(&into).unwrap();
    let result = unpack_blocking(archive, &into, limits);
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    (dir, result)
}

fn unpack_default(archive: &[u8]) -> Result<Vec<(String, String)>, ArchiveError> {
    let (dir, result) = try_unpack(archive, &TreeLimits::default());
    let listed = listed(&dir.path().join("into"));
    result.map(|_| listed)
}

/// Everything below a folder, with content; folders end in a slash.
fn listed(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            let name = path
                .strip_prefix(folder)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let kind = entry.file_type().unwrap();
            assert!(kind.is_dir() || kind.is_file(), "{name}");
            if kind.is_dir() {
                found.push((format!("{name}/"), String::new()));
                folders.push(path);
            } else {
                let content = fs::read(path).unwrap();
                found.push((name, String::from_utf8_lossy(&content).into_owned()));
            }
        }
    }
    found.sort();
    found
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    let list = list.iter();
    list.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn folders_and_files_come_out_as_they_went_in() {
    let tar = Tar::default()
        .folder("./")
        .file("./plugin.yaml", "name: x\n")
        .folder("./skills/")
        .file("./skills/one/SKILL.md", &"x".repeat(1000))
        .folder("skills/one")
        .file("empty", "")
        .end();
    let expected = pairs(&[
        ("empty", ""),
        ("plugin.yaml", "name: x\n"),
        ("skills/", ""),
        ("skills/one/", ""),
        ("skills/one/SKILL.md", &"x".repeat(1000)),
    ]);
    assert_eq!(unpack_default(&tar).unwrap(), expected);
    assert_eq!(unpack_default(&gzip(&tar)).unwrap(), expected);
    let (_dir, unpacked) = try_unpack(&tar, &TreeLimits::default());
    let unpacked = unpacked.unwrap();
    assert_eq!((unpacked.entries, unpacked.bytes), (5, 1008));
    assert_eq!(unpack_default(&Tar::default().end()).unwrap(), []);
}

#[test]
fn long_names_come_out_whole() {
    let part = "n".repeat(120);
    let long = format!("{part}/{part}/{part}");
    let mut gnu_name = long.clone().into_bytes();
    gnu_name.push(0);
    let comment = records_of(&[("comment", "0123")]);
    let tar = Tar::default()
        .entry("pax_global_header", b'g', &comment)
        .entry("././@LongLink", b'L', &gnu_name)
        .file(&long[..99], "gnu")
        .pax(&[("path", "pax/name"), ("mtime", "1.5"), ("size", "3")])
        .file("other", "pax")
        .file("plain", "plain")
        .end();
    let found = unpack_default(&tar).unwrap();
    let text = |name: &str| {
        let found = found.iter().find(|(known, _)| known == name);
        found.map(|(_, text)| text.as_str())
    };
    assert_eq!(text(&long), Some("gnu"));
    assert_eq!(text("pax/name"), Some("pax"));
    assert_eq!((text("plain"), text("other")), (Some("plain"), None));
    // A prefix of ustar's own.
    let mut tar = Tar::default().file("name", "text").end();
    tar[345..351].copy_from_slice(b"prefix");
    let block: [u8; BLOCK] = tar[..BLOCK].try_into().unwrap();
    tar[..BLOCK].copy_from_slice(&summed(block));
    assert_eq!(unpack_default(&tar).unwrap()[1].0, "prefix/name");
}

#[test]
fn what_other_programs_write_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let deep = source.join("d".repeat(90)).join("e".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("SKILL.md"), "text").unwrap();
    fs::write(source.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o4777)).unwrap();
    fs::write(source.join("plain"), "").unwrap();
    fs::set_permissions(source.join("plain"), fs::Permissions::from_mode(0o600)).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let archive = dir.path().join(format!("{format}.tar.gz"));
        let made = Command::new("tar")
            .args(["--format", format, "-czf"])
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg(".")
            .status();
        assert!(made.unwrap().success());
        let (out, unpacked) = try_unpack(&fs::read(&archive).unwrap(), &TreeLimits::default());
        unpacked.unwrap();
        let into = out.path().join("into");
        assert_eq!(listed(&into), listed(&source), "{format}");
        let mode =
            |name: &str| fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("run.sh") & 0o7100, 0o100, "{format}");
        assert_eq!(mode("plain") & 0o7111, 0, "{format}");
    }
}

#[tokio::test]
async fn an_archive_that_arrives_in_pieces_is_unpacked_as_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sender, receiver) = tokio::io::duplex(1000);
    let archive = gzip(&Tar::default().file("a/b", &"x".repeat(300_000)).end());
    let limits = TreeLimits::default();
    let sending = async move {
        use tokio::io::AsyncWriteExt;
        for piece in archive.chunks(100) {
            sender.write_all(piece).await.unwrap();
        }
    };
    let (unpacked, ()) = tokio::join!(unpack(receiver, dir.path(), &limits), sending);
    assert_eq!(unpacked.unwrap().bytes, 300_000);
    assert_eq!(listed(dir.path())[1].1.len(), 300_000);
}

#[tokio::test]
async fn a_bad_archive_ends_before_its_sender_does() {
    // given a sender that never ends
    let dir = tempfile::tempdir().unwrap();
    let archive = Tar::default().file("../x", "").end();
    let limits = TreeLimits::default();
    let (mut sender, receiver) = tokio::io::duplex(100_000);
    tokio::io::AsyncWriteExt::write_all(&mut sender, &archive)
        .await
        .unwrap();
    // when the archive is wrong, then nobody waits for the rest
    let error = unpack(receiver, dir.path(), &limits).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Unsupported { .. }), "{error}");
    drop(sender);
}

#[tokio::test]
async fn whoever_stops_waiting_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let limits = TreeLimits::default();
    let (sender, receiver) = tokio::io::duplex(1000);
    let mut unpacking = Box::pin(unpack(receiver, dir.path(), &limits));
    tokio::select! {
        result = &mut unpacking => panic!("{result:?}"),
        () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
    }
    // The runtime of this test ends only when the thread does.
    drop(unpacking);
    drop(sender);
}

#[tokio::test]
async fn a_sender_that_breaks_off_is_told_from_one_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    let limits = TreeLimits::default();
    let broken = tokio_broken(Tar::default().file("a", &"x".repeat(1000)).end()[..600].to_vec());
    let error = unpack(broken, dir.path(), &limits).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Read(_)), "{error}");
    let short: &[u8] = &Tar::default().file("b", &"x".repeat(1000)).end()[..600];
    let error = unpack(short, dir.path(), &limits).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Truncated), "{error}");
}

/// Bytes, then an error.
fn tokio_broken(bytes: Vec<u8>) -> impl AsyncRead + Unpin {
    use tokio::io::AsyncReadExt;
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }
    AsyncReadExt::chain(io::Cursor::new(bytes), Broken)
}
