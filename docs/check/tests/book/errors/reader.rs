//! From the calls that make errors to the texts of those errors.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, ExprMethodCall, Pat};

use crate::source::{self, Source, literals_in, string};

/// Makers of `Error`, with the status of their kind.
const MAKERS: [(&str, u16); 18] = [
    ("invalid", 400),
    ("unauthorized", 401),
    ("payment_required", 402),
    ("forbidden", 403),
    ("not_found", 404),
    ("conflict", 409),
    ("gone", 410),
    ("too_large", 413),
    ("oversized", 413),
    ("unprocessable", 422),
    ("rate_limited", 429),
    ("too_many", 429),
    ("internal", 500),
    ("not_implemented", 501),
    ("bad_gateway", 502),
    ("unavailable", 503),
    ("not_now", 503),
    ("gateway_timeout", 504),
];

/// A text and where it is made.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) status: u16,
    pub(super) text: String,
    pub(super) room: String,
}

/// A function that makes an error with a text it is given.
struct Forwarder {
    name: String,
    status: u16,
    /// Which of its arguments is the text, `self` not counted.
    argument: usize,
    /// What paths of files begin with in which it is known.
    scope: String,
}

/// Names of functions and closures that are being read, with their parameters.
struct Frame {
    name: String,
    parameters: Vec<String>,
    scope: String,
}

/// Finds the forwarders of one file.
struct Scout<'a> {
    path: &'a str,
    frames: Vec<Frame>,
    found: Vec<Forwarder>,
}

fn parameters<'a>(patterns: impl Iterator<Item = &'a Pat>) -> Vec<String> {
    let name = |pattern: &Pat| match pattern {
        Pat::Ident(name) => name.ident.to_string(),
        Pat::Type(typed) => match &*typed.pat {
            Pat::Ident(name) => name.ident.to_string(),
            _ => String::new(),
        },
        _ => String::new(),
    };
    patterns.map(name).collect()
}

fn frame(signature: &syn::Signature, visibility: &syn::Visibility, path: &str) -> Frame {
    let typed = signature.inputs.iter().filter_map(|input| match input {
        syn::FnArg::Typed(typed) => Some(&*typed.pat),
        syn::FnArg::Receiver(_) => None,
    });
    Frame {
        name: signature.ident.to_string(),
        parameters: parameters(typed),
        scope: match visibility {
            // Private ones are called in the modules below, too.
            syn::Visibility::Inherited => format!("molecule-core/src/{}", room(path)),
            _ => String::new(),
        },
    }
}

/// The maker that a call is, if it is one.
fn maker(call: &ExprCall) -> Option<&'static (&'static str, u16)> {
    let Expr::Path(function) = &*call.func else {
        return None;
    };
    let mut last = function.path.segments.iter().rev();
    let (name, owner) = (
        last.next()?.ident.to_string(),
        last.next()?.ident.to_string(),
    );
    let found = MAKERS.iter().find(|(maker, _)| *maker == name);
    // What it is given is the cause; its text is its own.
    found.filter(|(name, _)| owner == "Error" && *name != "unavailable")
}

/// The name that an expression is, whatever is done to it.
fn base(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        Expr::Reference(inner) => base(&inner.expr),
        Expr::Paren(inner) => base(&inner.expr),
        Expr::MethodCall(call) => base(&call.receiver),
        _ => None,
    }
}

impl Scout<'_> {
    fn within(&mut self, frame: Frame, read: impl FnOnce(&mut Self)) {
        self.frames.push(frame);
        read(self);
        self.frames.pop();
    }

    fn note(&mut self, status: u16, text: &Expr) {
        let Some(name) = base(text) else { return };
        for frame in self.frames.iter().rev() {
            let at = frame.parameters.iter().position(|known| *known == name);
            if let Some(argument) = at {
                self.found.push(Forwarder {
                    name: frame.name.clone(),
                    status,
                    argument,
                    scope: frame.scope.clone(),
                });
                return;
            }
        }
    }
}

impl<'ast> Visit<'ast> for Scout<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.within(frame(&item.sig, &item.vis, self.path), |scout| {
            visit::visit_item_fn(scout, item)
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(frame(&item.sig, &item.vis, self.path), |scout| {
            visit::visit_impl_item_fn(scout, item)
        });
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
            && let Expr::Closure(closure) = &*init.expr
        {
            let frame = Frame {
                name: name.ident.to_string(),
                parameters: parameters(closure.inputs.iter()),
                scope: self.path.to_owned(),
            };
            return self.within(frame, |scout| visit::visit_local(scout, local));
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let (Some((_, status)), Some(text)) = (maker(call), call.args.first()) {
            self.note(*status, text);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if call.method == "says"
            && let Some(text) = call.args.first()
        {
            self.note(500, text);
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// Reads the calls of one file.
struct Reader<'a> {
    room: String,
    path: &'a str,
    constants: &'a BTreeMap<String, String>,
    forwarders: &'a [Forwarder],
    /// Texts that names of the function being read stand for.
    names: BTreeMap<String, Vec<String>>,
    found: BTreeSet<Found>,
    unclear: Vec<String>,
    /// Forwarders that were given a text.
    used: BTreeSet<usize>,
}

impl Reader<'_> {
    /// The texts that an expression may be; nothing when that cannot be told.
    fn texts(&self, expression: &Expr) -> Vec<String> {
        if let Some(text) = string(expression) {
            return vec![text];
        }
        match expression {
            Expr::Macro(called) => {
                let tokens = called.mac.tokens.to_string();
                literals_in(&tokens)
                    .first()
                    .map(|text| open(text, self.constants))
                    .into_iter()
                    .collect()
            }
            Expr::Match(choice) => choice
                .arms
                .iter()
                .flat_map(|arm| self.texts(&arm.body))
                .collect(),
            Expr::If(choice) => {
                let mut texts = self.of_block(&choice.then_branch);
                if let Some((_, other)) = &choice.else_branch {
                    texts.extend(self.texts(other));
                }
                texts
            }
            Expr::Block(block) => self.of_block(&block.block),
            Expr::Reference(inner) => self.texts(&inner.expr),
            Expr::Paren(inner) => self.texts(&inner.expr),
            Expr::MethodCall(call) => self.texts(&call.receiver),
            Expr::Path(name) => {
                let name = name.path.segments.last().map(|last| last.ident.to_string());
                let name = name.unwrap_or_default();
                match self.constants.get(&name) {
                    Some(text) => vec![text.clone()],
                    None => self.names.get(&name).cloned().unwrap_or_default(),
                }
            }
            _ => Vec::new(),
        }
    }

    fn of_block(&self, block: &syn::Block) -> Vec<String> {
        match block.stmts.last() {
            Some(syn::Stmt::Expr(last, _)) => self.texts(last),
            _ => Vec::new(),
        }
    }

    /// What a function that makes errors of a text was given here.
    fn forwarded(
        &mut self,
        name: &str,
        arguments: &syn::punctuated::Punctuated<Expr, syn::Token![,]>,
    ) {
        for (at, forwarder) in self.forwarders.iter().enumerate() {
            let is_known = self.path.starts_with(&forwarder.scope);
            if !is_known || forwarder.name != name {
                continue;
            }
            let texts = arguments
                .iter()
                .nth(forwarder.argument)
                .map(|text| self.texts(text));
            let texts = texts.unwrap_or_default();
            if !texts.is_empty() {
                self.used.insert(at);
                self.note(forwarder.status, texts);
            }
        }
    }

    /// Reads a function with the names that it gives to texts.
    fn function(&mut self, block: &syn::Block, read: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.names);
        // Twice, for a name may stand for another one.
        for _ in 0..2 {
            Names(self).visit_block(block);
        }
        read(self);
        self.names = before;
    }

    fn note(&mut self, status: u16, texts: Vec<String>) {
        // An empty text is for a refusal that its caller throws away.
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            self.found.insert(Found {
                status,
                text,
                room: self.room.clone(),
            });
        }
    }
}

/// Names that stand for texts: `let text = …`.
struct Names<'a, 'b>(&'a mut Reader<'b>);

impl<'ast> Visit<'ast> for Names<'_, '_> {
    fn visit_local(&mut self, local: &'ast syn::Local) {
        if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init) {
            let texts = self.0.texts(&init.expr);
            self.0
                .names
                .entry(name.ident.to_string())
                .or_default()
                .extend(texts);
        }
        visit::visit_local(self, local);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.block, |reader| visit::visit_item_fn(reader, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.block, |reader| {
            visit::visit_impl_item_fn(reader, item)
        });
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let (Some((name, status)), Some(text)) = (maker(call), call.args.first()) {
            let texts = self.texts(text);
            let is_forwarded = base(text).is_some() && texts.is_empty();
            if texts.is_empty() && !is_forwarded {
                self.unclear.push(format!("{}: Error::{name}", self.path));
            }
            self.note(*status, texts);
        } else if let Expr::Path(function) = &*call.func
            && let Some(last) = function.path.segments.last()
        {
            self.forwarded(&last.ident.to_string(), &call.args);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        // `says` gives an internal error its text.
        if call.method == "says"
            && let Some(text) = call.args.first()
        {
            let texts = self.texts(text);
            self.note(500, texts);
        } else {
            self.forwarded(&call.method.to_string(), &call.args);
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// A format string with `…` where values go, or the texts of constants.
pub(super) fn open(text: &str, constants: &BTreeMap<String, String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        if after.starts_with("{{") || after.starts_with("}}") {
            out.push_str(&after[..1]);
            rest = &after[2..];
            continue;
        }
        let end = after.find('}').map_or(after.len(), |end| end + 1);
        let name = after[..end].trim_matches(['{', '}']);
        let name = name.split(':').next().unwrap_or_default();
        match constants.get(name) {
            Some(text) => out.push_str(text),
            None => out.push('…'),
        }
        rest = &after[end..];
    }
    out + rest
}

/// The room a file belongs to.
fn room(path: &str) -> String {
    let below = path.strip_prefix("molecule-core/src/").unwrap_or(path);
    below
        .split(['/', '.'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Every text, and the places where none could be made out.
pub(super) fn catalogue() -> (BTreeSet<Found>, Vec<String>) {
    let sources = source::below("molecule-core/src");
    let constants = source::text_constants(&sources);
    let mut forwarders = Vec::new();
    for source in &sources {
        let mut scout = Scout {
            path: &source.path,
            frames: Vec::new(),
            found: Vec::new(),
        };
        scout.visit_file(&source.file);
        forwarders.append(&mut scout.found);
    }
    let (mut found, mut unclear) = (own_texts(&sources), Vec::new());
    let mut used = BTreeSet::new();
    for source in &sources {
        let mut reader = Reader {
            room: room(&source.path),
            path: &source.path,
            constants: &constants,
            forwarders: &forwarders,
            names: BTreeMap::new(),
            found: BTreeSet::new(),
            unclear: Vec::new(),
            used: BTreeSet::new(),
        };
        reader.visit_file(&source.file);
        found.append(&mut reader.found);
        unclear.append(&mut reader.unclear);
        used.append(&mut reader.used);
    }
    let unused = forwarders
        .iter()
        .enumerate()
        .filter(|(at, _)| !used.contains(at));
    unclear.extend(unused.map(|(_, unused)| format!("{}: {}", unused.scope, unused.name)));
    (found, unclear)
}

/// Texts that a maker brings itself.
fn own_texts(sources: &[Source]) -> BTreeSet<Found> {
    struct Own(BTreeSet<Found>);
    impl<'ast> Visit<'ast> for Own {
        fn visit_expr_call(&mut self, call: &'ast ExprCall) {
            let is_new = matches!(&*call.func, Expr::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "new"));
            let mut arguments = call.args.iter();
            if let (true, Some(Expr::Path(kind)), Some(Some(text))) =
                (is_new, arguments.next(), arguments.next().map(string))
            {
                let kind = kind.path.segments.last().map(|last| last.ident.to_string());
                let status = match kind.as_deref() {
                    Some("TooLarge") => 413,
                    Some("Unavailable") => 503,
                    _ => return,
                };
                let room = "all".to_owned();
                self.0.insert(Found { status, text, room });
            }
        }
    }
    let mut own = Own(BTreeSet::new());
    let errors = sources
        .iter()
        .find(|source| source.path == "molecule-core/src/error.rs");
    own.visit_file(&errors.expect("the errors are where they were").file);
    own.0
}
