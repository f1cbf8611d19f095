//! The table of metrics, read off the macros that count.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syn::visit::{self, Visit};
use syn::{Expr, Pat};

use crate::generated;
use crate::source::{self, literals_in, string};

#[derive(Default)]
struct Metrics {
    /// Kind and labels by name.
    found: BTreeMap<String, (String, Vec<String>)>,
    constants: BTreeMap<String, String>,
    /// Labels of the last list of that name.
    lists: BTreeMap<String, Vec<String>>,
}

/// `[("hook", …), ("outcome", …)]` without the values.
fn list(expression: &Expr) -> Option<Vec<String>> {
    let Expr::Array(array) = expression else {
        return None;
    };
    let label = |pair: &Expr| match pair {
        Expr::Tuple(pair) => pair.elems.first().and_then(string),
        _ => None,
    };
    array.elems.iter().map(label).collect()
}

impl<'ast> Visit<'ast> for Metrics {
    fn visit_local(&mut self, local: &'ast syn::Local) {
        if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
            && let Some(labels) = list(&init.expr)
        {
            self.lists.insert(name.ident.to_string(), labels);
        }
        visit::visit_local(self, local);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        let kind = called
            .path
            .segments
            .last()
            .map(|last| last.ident.to_string());
        let kind = kind.unwrap_or_default();
        let tokens = called.tokens.to_string();
        let tokens = tokens.split_whitespace().collect::<Vec<_>>().join(" ");
        if ["counter", "gauge", "histogram"].contains(&kind.as_str()) {
            let first = tokens.split([',', ' ']).next().unwrap_or_default();
            let name = match self.constants.get(first) {
                Some(name) => Some(name.clone()),
                None => literals_in(&tokens).into_iter().next(),
            };
            let labels = literals_in(&tokens)
                .into_iter()
                .filter(|text| tokens.contains(&format!("\"{text}\" =>")));
            let named = tokens.rsplit("& ").next().unwrap_or_default();
            let listed = self.lists.get(named).cloned().unwrap_or_default();
            let labels = labels.chain(listed);
            if let Some(name) = name {
                let entry = self.found.entry(name).or_insert((kind, Vec::new()));
                for label in labels {
                    if !entry.1.contains(&label) {
                        entry.1.push(label);
                    }
                }
            }
        }
        visit::visit_macro(self, called);
    }
}

fn table() -> String {
    let sources = source::below("molecule-core/src");
    let mut metrics = Metrics {
        constants: source::text_constants(&sources),
        ..Metrics::default()
    };
    for source in &sources {
        metrics.visit_file(&source.file);
    }
    assert!(
        metrics.found.len() > 20,
        "the macros that count are not recognised any more"
    );
    let mut text = String::from("| metric | kind | labels |\n|---|---|---|\n");
    for (name, (kind, labels)) in metrics.found {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{name}` | {kind} | {} |", labels.join(", "));
    }
    text
}

#[test]
fn the_page_lists_every_metric() {
    generated::part("operate/observe.md", "metrics", &table());
}
