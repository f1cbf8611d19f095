use super::*;

#[track_caller]
fn refused(tar: Tar) -> String {
    let bytes = tar.end();
    let plain = unpack_default(&bytes).unwrap_err();
    let packed = unpack_default(&gzip(&bytes)).unwrap_err();
    assert_eq!(plain.to_string(), packed.to_string());
    assert!(matches!(plain, ArchiveError::Unsupported { .. }), "{plain}");
    plain.to_string()
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "../x",
        "a/../../x",
        "a/..",
        "..",
        "/etc/passwd",
        "//x",
        "a//b",
        "a/./b",
        "././x",
        "./",
        "a\\b",
        "..\\x",
        "C:\\x",
        "a\nb",
        "a\u{7f}",
        "a\u{85}b",
        "a/",
        "",
        ".",
    ] {
        refused(Tar::default().file(name, "x"));
    }
    refused(Tar::default().raw(b"\xff\xfe", b'0', 1, b"x"));
    for name in ["../x", "/x", "a/../..", "a\\b", "a//"] {
        refused(Tar::default().folder(name));
        refused(Tar::default().pax(&[("path", name)]).folder("good"));
        let mut long = name.as_bytes().to_vec();
        long.push(0);
        refused(Tar::default().entry("x", b'L', &long).file("good", "x"));
    }
    // What a header says is not what the name is.
    let tar = Tar::default()
        .pax(&[("path", "good")])
        .file("../x", "x")
        .end();
    assert_eq!(unpack_default(&tar).unwrap(), pairs(&[("good", "x")]));
}

#[test]
fn whatever_is_no_file_and_no_folder_is_refused() {
    for flag in [
        b'1', b'2', b'3', b'4', b'6', b'S', b'K', b'V', b'M', b'D', b'A', b'X', 0xff,
    ] {
        refused(Tar::default().entry("name", flag, b""));
    }
    let sparse = [("GNU.sparse.name", "../x"), ("GNU.sparse.major", "1")];
    refused(Tar::default().pax(&sparse).file("a", "x"));
    refused(
        Tar::default()
            .pax(&[("linkpath", "/etc/passwd")])
            .file("a", "x"),
    );
    refused(
        Tar::default()
            .pax(&[("hdrcharset", "BINARY")])
            .file("a", "x"),
    );
    refused(Tar::default().entry("a", b'5', b"content"));
}

#[test]
fn a_name_is_there_once_in_one_spelling() {
    let file = |one: &str, other: &str| refused(Tar::default().file(one, "1").file(other, "2"));
    file("a", "a");
    file("./a", "a");
    file("SKILL.md", "skill.md");
    file("A/b", "a/c");
    file("a", "a/b");
    file("a/b", "a");
    file("Ä", "ä");
    refused(Tar::default().folder("a").folder("a/"));
    refused(Tar::default().folder("a").folder("A"));
    refused(Tar::default().folder("a").file("a", "x"));
    refused(Tar::default().file("a", "x").folder("a"));
}

#[test]
fn nobody_is_told_two_things_about_one_entry() {
    let two_sizes = Tar::default().pax(&[("size", "600")]).file("a", "x");
    assert!(refused(two_sizes).contains("two sizes"));
    refused(
        Tar::default()
            .pax(&[("path", "a"), ("path", "b")])
            .file("c", "x"),
    );
    refused(
        Tar::default()
            .pax(&[("path", "a")])
            .pax(&[("path", "b")])
            .file("c", "x"),
    );
    let named = Tar::default()
        .entry("x", b'L', b"one\0")
        .pax(&[("path", "other")]);
    refused(named.file("c", "x"));
    let global = records_of(&[("path", "everywhere")]);
    refused(Tar::default().entry("g", b'g', &global).file("c", "x"));
    let global = records_of(&[("size", "0")]);
    refused(Tar::default().entry("g", b'g', &global).file("c", "x"));
}

#[test]
fn damaged_archives_are_no_archives() {
    let good = Tar::default().file("a", "text").end();
    let malformed = |bytes: &[u8]| {
        let error = unpack_default(bytes).unwrap_err();
        assert!(matches!(error, ArchiveError::Malformed(_)), "{error}");
    };
    let mut wrong_sum = good.clone();
    wrong_sum[0] = b'b';
    malformed(&wrong_sum);
    malformed(&[&good[..], &Tar::default().file("hidden", "x").end()].concat());
    malformed(&[&good[..BLOCK * 3], &good].concat());
    malformed(&[b'x'; 2048]);
    malformed(
        &Tar::default()
            .entry("x", b'L', b"no end")
            .file("a", "")
            .end(),
    );
    malformed(
        &Tar::default()
            .entry("x", b'L', b"a\0b\0")
            .file("a", "")
            .end(),
    );
    malformed(&Tar::default().pax(&[("path", "a")]).end());
    malformed(&Tar::default().pax(&[("size", "-1")]).file("a", "").end());
    for records in [
        "x", "5", "5 ", " a=b\n", "0 a=b\n", "99 a=b\n", "6 a=bc", "7 abcd\n", "+6 a=b\n", "4 \n\n",
    ] {
        malformed(
            &Tar::default()
                .entry("x", b'x', records.as_bytes())
                .file("a", "")
                .end(),
        );
    }
    let mut packed = gzip(&good);
    let at = packed.len() - 6;
    packed[at] ^= 1;
    malformed(&packed);
    malformed(&[&gzip(&good)[..], b"rest of something else"].concat());
    // Two packed parts are one archive.
    let parts = [gzip(&good[..700]), gzip(&good[700..])].concat();
    assert_eq!(unpack_default(&parts).unwrap(), pairs(&[("a", "text")]));
}

#[test]
fn whatever_is_cut_off_is_refused() {
    let good = Tar::default()
        .file("a", &"x".repeat(2000))
        .folder("b")
        .end();
    for length in [0, 1, 2, 100, 512, 600, 2560, 2561, 3071] {
        let error = unpack_default(&good[..length]).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Truncated),
            "{length}: {error}"
        );
    }
    let packed = gzip(&good);
    for length in 2..packed.len() {
        let error = unpack_default(&packed[..length]).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Truncated),
            "{length}: {error}"
        );
    }
}

#[track_caller]
fn too_large(bytes: &[u8], limits: &TreeLimits) {
    let (dir, result) = try_unpack(bytes, limits);
    let error = result.unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge(_)), "{error}");
    let written: usize = listed(dir.path()).iter().map(|(_, text)| text.len()).sum();
    assert!(written as u64 <= limits.bytes, "{written}");
}

#[test]
fn limits_hold_while_bytes_arrive() {
    let mut limits = TreeLimits::default().with_bytes(1000);
    (limits.entries, limits.depth, limits.name_bytes) = (3, 1, 8);
    let files = |names: &[&str], size: usize| {
        let text = "x".repeat(size);
        let add = |tar: Tar, name: &&str| tar.file(name, &text);
        names.iter().fold(Tar::default(), add).end()
    };
    for fits in [
        files(&["a", "b"], 500),
        files(&["a/b", "a/c"], 1),
        files(&["12345678"], 0),
    ] {
        try_unpack(&fits, &limits).1.unwrap();
    }
    too_large(&files(&["a", "b"], 501), &limits);
    too_large(&files(&["a", "b", "c", "d"], 0), &limits);
    // The folders between count, too.
    too_large(&files(&["a/b", "c/d"], 0), &limits);
    too_large(&files(&["a/b/c"], 0), &limits);
    too_large(&files(&["123456789"], 0), &limits);
    // Sizes that are only said.
    too_large(
        &Tar::default().raw(b"a", b'0', 0o77_777_777_777, b"").end(),
        &limits,
    );
    let mut endless = Tar::default().raw(b"a", b'0', 0, b"").end();
    endless[124] = 0xff;
    let block: [u8; BLOCK] = endless[..BLOCK].try_into().unwrap();
    endless[..BLOCK].copy_from_slice(&summed(block));
    too_large(&endless, &limits);
    too_large(
        &Tar::default().raw(b"a", b'x', 0o77_777_777, b"").end(),
        &limits,
    );
    too_large(
        &Tar::default().raw(b"a", b'L', 0o77_777_777, b"").end(),
        &limits,
    );
}

/// Repeats a block for ever.
struct Endless {
    block: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.block[self.at..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.at = (self.at + read) % self.block.len();
        Ok(read)
    }
}

#[test]
fn floods_of_headers_end() {
    let without_end = |tar: Tar| tar.0;
    for block in [
        without_end(Tar::default().folder("./")),
        without_end(Tar::default().entry("g", b'g', &records_of(&[("comment", "x")]))),
        without_end(Tar::default().entry("g", b'g', b"")),
        vec![0; BLOCK],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let endless = Endless { block, at: 0 };
        let error = unpack_blocking(endless, dir.path(), &TreeLimits::default()).unwrap_err();
        assert!(matches!(error, ArchiveError::TooLarge(_)), "{error}");
    }
}

#[test]
fn a_million_entries_end_at_the_limit() {
    struct Many(usize, Vec<u8>, usize);
    impl Read for Many {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.2 == self.1.len() {
                self.0 += 1;
                let name = format!("{:07}", self.0);
                (self.1, self.2) = (Tar::default().file(&name, "").0, 0);
            }
            let rest = &self.1[self.2..];
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            self.2 += read;
            Ok(read)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let limits = TreeLimits {
        entries: 500,
        ..TreeLimits::default()
    };
    let error = unpack_blocking(Many(0, Vec::new(), 0), dir.path(), &limits).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge(_)), "{error}");
    assert_eq!(listed(dir.path()).len(), 500);
}

#[test]
fn bombs_do_not_go_off() {
    // given 64 MiB of zeros in a few kilobytes, within the limits by themselves
    let zeros = "\0".repeat(64 * 1024 * 1024);
    let bomb = gzip(&Tar::default().file("zeros", &zeros).end());
    assert!(bomb.len() < 100_000);
    let (dir, result) = try_unpack(&bomb, &TreeLimits::default());
    let error = result.unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge(_)), "{error}");
    let written: usize = listed(dir.path()).iter().map(|(_, text)| text.len()).sum();
    assert!(written < 40 * 1024 * 1024, "{written}");
    // One of zeros behind the end, and one within a description.
    let behind = [Tar::default().end(), vec![0; 32 * 1024 * 1024]].concat();
    too_large(&gzip(&behind), &TreeLimits::default());
    let inside = Tar::default()
        .entry("x", b'x', &vec![0; 32 * 1024 * 1024])
        .end();
    too_large(&gzip(&inside), &TreeLimits::default());
}

#[test]
fn what_is_in_the_folder_already_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "kept").unwrap();
    let into = dir.path().join("into");
    fs::create_dir(&into).unwrap();
    std::os::unix::fs::symlink(&outside, into.join("folder")).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), into.join("file")).unwrap();
    for name in ["folder/file", "folder/new", "file"] {
        let tar = Tar::default().file(name, "overwritten").end();
        let error = unpack_blocking(&*tar, &into, &TreeLimits::default()).unwrap_err();
        assert!(matches!(error, ArchiveError::Write(_)), "{name}: {error}");
    }
    assert_eq!(listed(&outside), pairs(&[("file", "kept")]));
}

#[test]
fn what_is_wrong_is_told_in_few_words() {
    let name = format!("../{}", "x".repeat(90));
    let tar = Tar::default().file(&name, "").end();
    let text = PluginSourceError::from(unpack_default(&tar).unwrap_err()).to_string();
    assert!(
        text.starts_with("unsupported: entry \"../x") && text.len() < 300,
        "{text}"
    );
}
