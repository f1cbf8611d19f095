//! Links, the table of contents, and names of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::page::Page;
use crate::{assert_none, repository};

const SUMMARY: &str = "SUMMARY.md";

/// `operate/../a.md` without the dots; nothing when it leads out of the book.
fn normal(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// What is wrong with a link, if anything is.
fn problem(
    from: &str,
    link: &str,
    anchors: &BTreeMap<String, Vec<String>>,
) -> Option<&'static str> {
    if link.starts_with("https://") || link.starts_with("mailto:") {
        return None;
    }
    if link.contains("://") {
        return Some("only https:// leads out of the book");
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = Path::new(from).parent().unwrap_or(Path::new(""));
    let target = match file {
        "" => Some(from.to_owned()),
        file => normal(&folder.join(file)),
    };
    let Some(known) = target.and_then(|target| anchors.get(&target)) else {
        return Some("leads to no page of the book; name a file of the repository as `code`");
    };
    let is_there = anchor.is_empty() || known.iter().any(|known| known == anchor);
    (!is_there).then_some("leads to no heading of that page")
}

#[test]
fn every_link_leads_somewhere() {
    let pages = Page::all();
    let anchors: BTreeMap<_, _> = pages
        .iter()
        .map(|page| (page.path.clone(), page.anchors()))
        .collect();
    let mut offenders = Vec::new();
    for page in &pages {
        for (link, line) in page.links() {
            if let Some(problem) = problem(&page.path, &link, &anchors) {
                offenders.push(format!("{}:{line}: {link}: {problem}", page.path));
            }
        }
    }
    assert_none(&offenders, "links of the book must lead somewhere");
}

#[test]
fn broken_links_are_noticed() {
    let known = BTreeMap::from([
        ("a/b.md".to_owned(), vec!["there".to_owned()]),
        ("c.md".to_owned(), Vec::new()),
    ]);
    let judge = |link: &str| problem("a/b.md", link, &known).is_some();
    for good in [
        "#there",
        "b.md",
        "./b.md#there",
        "../c.md",
        "https://example.org/x",
    ] {
        assert!(!judge(good), "{good}");
    }
    for bad in [
        "#here",
        "c.md",
        "../../c.md",
        "../c.md#x",
        "/c.md",
        "http://example.org",
        "b.html",
    ] {
        assert!(judge(bad), "{bad}");
    }
}

#[test]
fn the_table_of_contents_has_every_page_once() {
    let pages = Page::all();
    let summary = pages.iter().find(|page| page.path == SUMMARY);
    let listed: Vec<String> = summary
        .expect("SUMMARY.md")
        .links()
        .into_iter()
        .map(|(link, _)| link)
        .collect();
    let unique: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(
        unique.len(),
        listed.len(),
        "a page is listed twice in SUMMARY.md"
    );
    let offenders: Vec<_> = pages
        .iter()
        .filter(|page| page.path != SUMMARY && !unique.contains(&page.path))
        .map(|page| page.path.clone())
        .collect();
    assert_none(
        &offenders,
        "SUMMARY.md does not list these pages, so nobody finds them",
    );
}

#[test]
fn every_page_has_one_title_and_names_the_language_of_its_code() {
    let mut offenders = Vec::new();
    for page in Page::all() {
        if page.titles() != 1 && page.path != SUMMARY {
            offenders.push(format!("{}: {} titles", page.path, page.titles()));
        }
        for (tag, line) in page.tags() {
            offenders.push(format!(
                "{}:{line}: {tag}: write `&lt;`, or code",
                page.path
            ));
        }
        for block in page.blocks() {
            if block.language.is_empty() {
                offenders.push(format!(
                    "{}:{}: a block without a language",
                    page.path, block.line
                ));
            }
        }
    }
    assert_none(
        &offenders,
        "a page has one heading of the first level, and a code block says what it is (text, if nothing \
         else): rustdoc takes one without a language for Rust",
    );
}

/// Folders of the repository whose files the book names.
const ROOTS: [&str; 11] = [
    "benches/",
    "docs/",
    "examples/",
    "fuzz/",
    "molecule-build/",
    "molecule-core/",
    "molecule-hooks/",
    "plugins/",
    "scripts/",
    "templates/",
    "tests/",
];

#[test]
fn files_that_the_book_names_exist() {
    let root = repository();
    let mut offenders = Vec::new();
    for page in Page::all() {
        for (span, line) in page.spans() {
            let path = span.split([' ', '#']).next().unwrap_or_default();
            let path = path.strip_prefix("./").unwrap_or(path);
            let is_ours = ROOTS.iter().any(|folder| path.starts_with(folder));
            // A pattern, or a folder of a workspace that happens to be called so.
            if !is_ours || path.contains(['*', '<', '{', ':', '…']) {
                continue;
            }
            if !root.join(PathBuf::from(path)).exists() {
                offenders.push(format!("{}:{line}: {path}", page.path));
            }
        }
    }
    assert_none(
        &offenders,
        "the book names files that the repository does not have",
    );
}
