//! The book as mdBook builds it, where mdBook is there.

use std::process::Command;

use crate::page::Page;
use crate::repository;

#[test]
fn mdbook_builds_the_book() {
    let folder = repository().join("docs");
    assert!(
        folder.join("book.toml").is_file(),
        "docs/book.toml is not there"
    );
    let version = Command::new("mdbook").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: the program mdbook is not installed (`cargo install mdbook`)");
        return;
    }
    let target = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("mdbook")
        .arg("build")
        .arg("--dest-dir")
        .arg(target.path())
        .arg(&folder)
        .output()
        .expect("mdbook runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    for page in Page::all().iter().filter(|page| page.path != "SUMMARY.md") {
        let html = target.path().join(page.path.replace(".md", ".html"));
        let html = match page.path.strip_suffix("README.md") {
            Some(folder) => target.path().join(folder).join("index.html"),
            None => html,
        };
        let text = std::fs::read_to_string(&html).unwrap_or_default();
        assert!(!text.is_empty(), "{} was not built", page.path);
        // The names of headings are what links of other pages rely on.
        for anchor in page.anchors() {
            assert!(
                text.contains(&format!("id=\"{anchor}\"")),
                "{}: no id {anchor}",
                page.path
            );
        }
    }
}
