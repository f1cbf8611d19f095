//! The matrix of backends: which of the optional abilities each implements.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use syn::{ImplItem, Item, TraitItem, Type};

use crate::generated;
use crate::source::{self, summary};

const TRAIT: &str = "WorkspaceBackend";

/// A method that a backend need not have, and what it is for.
struct Ability {
    name: String,
    about: String,
}

fn table() -> String {
    let (mut abilities, mut backends) = (Vec::new(), Vec::new());
    for source in source::below("molecule-core/src/backend") {
        for item in source.file.items {
            match item {
                Item::Trait(item) if item.ident == TRAIT => {
                    for member in item.items {
                        let TraitItem::Fn(method) = member else {
                            continue;
                        };
                        if method.default.is_some() {
                            abilities.push(Ability {
                                name: method.sig.ident.to_string(),
                                about: summary(&method.attrs),
                            });
                        }
                    }
                }
                Item::Impl(item) => {
                    let of = item.trait_.as_ref();
                    let of = of.and_then(|(path, _)| path.segments.last());
                    if of.is_some_and(|of| of.ident == TRAIT) {
                        backends.push((type_name(&item.self_ty), methods(&item.items)));
                    }
                }
                _ => {}
            }
        }
    }
    backends.sort();
    assert_eq!(
        backends.len(),
        3,
        "the backends are not recognised any more: {backends:?}"
    );
    let mut text = String::from("| ability |");
    for (name, _) in &backends {
        let _ = write!(text, " {} |", word(name));
    }
    text.push_str(" what it is for |\n|---|---|---|---|---|\n");
    for ability in abilities {
        let _ = write!(text, "| `{}` |", ability.name);
        for (_, methods) in &backends {
            text.push_str(if methods.contains(&ability.name) {
                " yes |"
            } else {
                " – |"
            });
        }
        let _ = writeln!(text, " {} |", generated::cell(&ability.about));
    }
    text
}

fn type_name(wanted: &Type) -> String {
    match wanted {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .map(|last| last.ident.to_string())
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn methods(items: &[ImplItem]) -> BTreeSet<String> {
    let names = items.iter().filter_map(|item| match item {
        ImplItem::Fn(method) => Some(method.sig.ident.to_string()),
        _ => None,
    });
    names.collect()
}

/// `DockerBackend` is `docker` in configurations.
fn word(name: &str) -> String {
    match name {
        "NoBackend" => "`none`".to_owned(),
        name => format!("`{}`", name.trim_end_matches("Backend").to_lowercase()),
    }
}

#[test]
fn the_matrix_is_what_the_backends_implement() {
    generated::part("reference/backends.md", "abilities", &table());
}
