//! Tables that are written by hand and repeat what the code says.

use std::fs;

use molecule_core::Config;
use syn::visit::Visit;
use syn::{ImplItem, Item, LitStr};

use crate::pages;
use crate::source;

/// The rows of the table whose first heading is this, cell by cell.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(pages().join(page)).expect("the page is there");
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = text.lines().skip_while(|line| {
        let first = line.strip_prefix('|').map(cells);
        first.is_none_or(|cells| cells[0] != heading)
    });
    assert!(lines.next().is_some(), "no table {heading:?} in {page}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(cells).collect()
}

/// The names between backticks.
fn names(cell: &str) -> Vec<String> {
    let between = cell.split('`').skip(1).step_by(2);
    between.map(str::to_owned).collect()
}

#[derive(Default)]
struct Literals(Vec<String>);

impl<'ast> Visit<'ast> for Literals {
    fn visit_lit_str(&mut self, literal: &'ast LitStr) {
        self.0.push(literal.value());
    }
}

#[test]
fn the_statuses_of_a_workspace_are_all_explained() {
    let mut literals = Literals::default();
    for source in source::below("molecule-core/src/workspaces") {
        for item in source.file.items {
            let Item::Impl(item) = item else { continue };
            let is_status = matches!(&*item.self_ty, syn::Type::Path(path)
                if path.path.is_ident("Status"));
            if !is_status {
                continue;
            }
            for member in &item.items {
                if let ImplItem::Fn(method) = member
                    && method.sig.ident == "as_str"
                {
                    literals.visit_block(&method.block);
                }
            }
        }
    }
    let mut known = literals.0;
    known.sort();
    assert_eq!(known.len(), 10, "the statuses are not recognised any more");
    let explained = rows("concepts.md", "status").into_iter();
    let mut explained: Vec<_> = explained.flat_map(|row| names(&row[0])).collect();
    explained.sort();
    assert_eq!(explained, known);
}

#[test]
fn the_tiers_have_the_limits_that_the_server_sets() {
    let docker = Config::default().backend.docker;
    let rows = rows("reference/backends.md", "tier");
    for (at, tier) in ["2", "3", "4"].into_iter().enumerate() {
        let row = rows.iter().find(|row| row[0].starts_with(tier));
        let row = &row.unwrap_or_else(|| panic!("no tier {tier}"))[1];
        let memory = match docker.memory_mb[at] {
            large if large % 1024 == 0 => format!("{} GiB", large / 1024),
            small => format!("{small} MiB"),
        };
        let processors = match docker.cpu_shares[at] / 1024 {
            1 => "1 processor".to_owned(),
            several => format!("{several} processors"),
        };
        for limit in [memory, processors] {
            assert!(row.contains(&limit), "tier {tier} has {limit}, not: {row}");
        }
    }
}

#[test]
fn what_backends_mean_for_agents_fits_what_they_can_do() {
    let page = "reference/backends.md";
    let (abilities, meanings) = (rows(page, "ability"), rows(page, ""));
    for (ability, meaning) in [
        ("console", "console"),
        ("terminal", "terminal"),
        ("plugins", "plugins delivered"),
        ("images", "image per runtime"),
        ("changes", "hears at once"),
    ] {
        let can = abilities.iter().find(|row| names(&row[0]) == [ability]);
        let can = can.unwrap_or_else(|| panic!("no ability {ability}"));
        let said = meanings.iter().find(|row| row[0].starts_with(meaning));
        let said = said.unwrap_or_else(|| panic!("no row {meaning:?}"));
        // The one has the columns docker, none, process; the other docker, process, none.
        for (backend, theirs, ours) in [("docker", 1, 1), ("process", 3, 2), ("none", 2, 3)] {
            let (can, said) = (&can[theirs], &said[ours]);
            assert_eq!(
                can.starts_with("yes"),
                said.starts_with("yes"),
                "{ability} on {backend}: the code says {can}, the page {said}"
            );
        }
    }
}
