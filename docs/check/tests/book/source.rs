//! Our own sources, read as Rust.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Lit, Meta};

use crate::repository;

/// A parsed file without its tests.
pub(crate) struct Source {
    /// Path in the repository, with `/`.
    pub(crate) path: String,
    pub(crate) file: syn::File,
}

/// Every file below a folder of the repository that is not about tests.
pub(crate) fn below(folder: &str) -> Vec<Source> {
    let root = repository();
    let (mut found, mut folders) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources can be listed") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "tests" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                found.push(read(&root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a source can be read");
    let mut file =
        syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.items.retain(|item| !is_test(item));
    let path = path.strip_prefix(root).unwrap_or(path);
    let path = path.to_string_lossy().replace('\\', "/");
    Source { path, file }
}

fn is_test(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// The documentation of an item, one line for each of its lines.
pub(crate) fn docs(attributes: &[Attribute]) -> Vec<String> {
    attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => string(&pair.value),
            _ => None,
        })
        .map(|line| line.trim().to_owned())
        .collect()
}

/// The documentation as one paragraph, its links to other items as plain code.
pub(crate) fn summary(attributes: &[Attribute]) -> String {
    let lines = docs(attributes);
    let first: Vec<String> = lines
        .into_iter()
        .take_while(|line| !line.is_empty())
        .collect();
    without_links(&first.join(" "))
}

/// ``[`a`](Self::b)`` becomes `` `a` ``.
fn without_links(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("[`") {
        out.push_str(before);
        let Some((code, after)) = after.split_once("`]") else {
            out.push_str("[`");
            rest = after;
            continue;
        };
        out.push_str(&format!("`{code}`"));
        rest = match after
            .strip_prefix('(')
            .and_then(|target| target.split_once(')'))
        {
            Some((_, after)) => after,
            None => after,
        };
    }
    out + rest
}

/// A literal, or something that says it is text.
pub(crate) fn string(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// The string literals among tokens, also those within brackets.
pub(crate) fn literals_in(tokens: &str) -> Vec<String> {
    // Tokens print as Rust does; a scanner for literals is all that is needed.
    let mut found = Vec::new();
    let bytes = tokens.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            let literal = tokens.get(at..=end.min(bytes.len() - 1));
            if let Some(Ok(text)) = literal.map(syn::parse_str::<syn::LitStr>) {
                found.push(text.value());
            }
            at = end + 1;
        } else if bytes[at] == b'\'' && bytes.get(at + 1) == Some(&b'"') {
            at += 3; // the character '"'
        } else {
            at += 1;
        }
    }
    found
}

/// Every text in the sources below some folders: literals, also in macros.
pub(crate) fn texts(folders: &[&str]) -> Vec<String> {
    struct Texts(Vec<String>);
    impl<'ast> Visit<'ast> for Texts {
        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            self.0.push(text.value());
        }
        fn visit_macro(&mut self, called: &'ast syn::Macro) {
            self.0.extend(literals_in(&called.tokens.to_string()));
        }
        fn visit_attribute(&mut self, attribute: &'ast Attribute) {
            if let Meta::List(list) = &attribute.meta {
                self.0.extend(literals_in(&list.tokens.to_string()));
            }
            visit::visit_attribute(self, attribute);
        }
    }
    let mut texts = Texts(Vec::new());
    for source in folders.iter().flat_map(|folder| below(folder)) {
        texts.visit_file(&source.file);
    }
    texts.0
}

/// Constants that hold text, by name.
pub(crate) fn text_constants(sources: &[Source]) -> BTreeMap<String, String> {
    struct Constants(BTreeMap<String, String>);
    impl<'ast> Visit<'ast> for Constants {
        fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
            if let Some(text) = string(&item.expr) {
                self.0.insert(item.ident.to_string(), text);
            }
        }
    }
    let mut constants = Constants(BTreeMap::new());
    for source in sources {
        constants.visit_file(&source.file);
    }
    constants.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_found_among_tokens() {
        let tokens = r#""a {b}" , x . y ("c \" d") , '"' , "e""#;
        assert_eq!(literals_in(tokens), ["a {b}", "c \" d", "e"]);
        assert_eq!(literals_in(""), [""; 0]);
    }

    #[test]
    fn links_between_items_become_code() {
        assert_eq!(
            without_links("see [`a`](Self::b) and [`c`]."),
            "see `a` and `c`."
        );
        assert_eq!(without_links("[plain] text"), "[plain] text");
    }
}
