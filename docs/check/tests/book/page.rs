//! A page of the book: its headings, links and code.

use std::fs;
use std::path::Path;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::pages;

/// A Markdown file below `docs/src`.
pub(crate) struct Page {
    /// Path below `docs/src`, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A fenced block with what stands right before it.
#[derive(Debug, PartialEq)]
pub(crate) struct Block {
    /// First word after the fence.
    pub(crate) language: String,
    pub(crate) text: String,
    /// Line of the fence, from 1.
    pub(crate) line: usize,
    /// Text of the HTML comment before it, empty without one.
    pub(crate) note: String,
}

impl Page {
    /// Every page, sorted by path.
    pub(crate) fn all() -> Vec<Self> {
        let root = pages();
        let mut found = Vec::new();
        collect(&root, &root, &mut found);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(!found.is_empty(), "the book has no page");
        found
    }

    fn events(&self) -> impl Iterator<Item = (Event<'_>, std::ops::Range<usize>)> {
        // What mdBook switches on.
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_FOOTNOTES
            | Options::ENABLE_HEADING_ATTRIBUTES;
        Parser::new_ext(&self.text, options).into_offset_iter()
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }

    /// Where links of this page lead to, with their lines.
    pub(crate) fn links(&self) -> Vec<(String, usize)> {
        self.events()
            .filter_map(|(event, range)| match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    Some((dest_url.into_string(), self.line_at(range.start)))
                }
                _ => None,
            })
            .collect()
    }

    /// Code within a line, with its lines.
    pub(crate) fn spans(&self) -> Vec<(String, usize)> {
        self.events()
            .filter_map(|(event, range)| match event {
                Event::Code(code) => Some((code.into_string(), self.line_at(range.start))),
                _ => None,
            })
            .collect()
    }

    /// The names that `#…` may have on this page, as mdBook makes them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let (mut anchors, mut heading) = (Vec::<String>::new(), None::<String>);
        for (event, _) in self.events() {
            match (event, &mut heading) {
                (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
                (Event::End(TagEnd::Heading(_)), Some(text)) => {
                    let id = anchor(text);
                    let before = anchors.iter().filter(|known| {
                        let rest = known.strip_prefix(id.as_str());
                        rest.is_some_and(|rest| rest.is_empty() || is_counted(rest))
                    });
                    let id = match before.count() {
                        0 => id,
                        count => format!("{id}-{count}"),
                    };
                    anchors.push(id);
                    heading = None;
                }
                (Event::Text(part) | Event::Code(part), Some(text)) => text.push_str(&part),
                _ => {}
            }
        }
        anchors
    }

    /// Tags within lines, with their lines.
    pub(crate) fn tags(&self) -> Vec<(String, usize)> {
        self.events()
            .filter_map(|(event, range)| match event {
                Event::InlineHtml(html) => Some((html.into_string(), self.line_at(range.start))),
                _ => None,
            })
            .collect()
    }

    /// How many headings of the first level there are.
    pub(crate) fn titles(&self) -> usize {
        let is_title = |event: &Event<'_>| {
            let Event::Start(Tag::Heading { level, .. }) = event else {
                return false;
            };
            *level == HeadingLevel::H1
        };
        self.events().filter(|(event, _)| is_title(event)).count()
    }

    /// Every fenced block; an indented one counts as one without a language.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let (mut note, mut inside) = (String::new(), false);
        for (event, range) in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match &kind {
                        CodeBlockKind::Fenced(info) => info.as_ref(),
                        CodeBlockKind::Indented => "",
                    };
                    let language = info.split([',', ' ']).next().unwrap_or_default();
                    inside = true;
                    blocks.push(Block {
                        language: language.to_owned(),
                        text: String::new(),
                        line: self.line_at(range.start),
                        note: std::mem::take(&mut note),
                    });
                }
                Event::End(TagEnd::CodeBlock) => inside = false,
                Event::Text(text) if inside => {
                    if let Some(block) = blocks.last_mut() {
                        block.text.push_str(&text);
                    }
                }
                Event::Html(html) => note.push_str(&html),
                Event::Start(Tag::HtmlBlock) => note.clear(),
                Event::End(TagEnd::HtmlBlock) => note = comment(&note),
                _ if !inside => note.clear(),
                _ => {}
            }
        }
        blocks
    }
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Page>) {
    for entry in fs::read_dir(folder).expect("a folder of the book can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).expect("a page is UTF-8 text");
            let path = path.strip_prefix(root).expect("it is below the root");
            let path = path.to_string_lossy().replace('\\', "/");
            found.push(Page { path, text });
        }
    }
}

/// The text between `<!--` and `-->`.
fn comment(html: &str) -> String {
    let text = html
        .trim()
        .strip_prefix("<!--")
        .and_then(|rest| rest.strip_suffix("-->"));
    text.unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_counted(rest: &str) -> bool {
    let number = rest.strip_prefix('-');
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn anchor(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_ascii_lowercase()),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        let (path, text) = ("a.md".to_owned(), text.to_owned());
        Page { path, text }
    }

    #[test]
    fn headings_have_the_names_of_mdbook() {
        let page = page("# A `b_c` d!\n\n## Twice\n\n## Twice\n");
        assert_eq!(page.anchors(), ["a-b_c-d", "twice", "twice-1"]);
        assert_eq!(page.titles(), 1);
    }

    #[test]
    fn a_block_knows_the_comment_before_it_and_no_other() {
        let page = page(
            "<!-- exits: 1 -->\n```sh\nfalse\n```\n\ntext\n\n```text\nout\n```\n\n<!-- a\n b -->\n\ntext\n\n```sh\nls\n```\n",
        );
        let found = page.blocks();
        let short: Vec<_> = found
            .iter()
            .map(|block| {
                (
                    block.language.as_str(),
                    block.text.as_str(),
                    block.note.as_str(),
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                ("sh", "false\n", "exits: 1"),
                ("text", "out\n", ""),
                ("sh", "ls\n", "")
            ]
        );
        assert_eq!(found[0].line, 2);
    }

    #[test]
    fn links_and_code_within_lines_are_found() {
        let page = page("See [one](b.md#c) and `code`.\n");
        assert_eq!(page.links(), [("b.md#c".to_owned(), 1)]);
        assert_eq!(page.spans(), [("code".to_owned(), 1)]);
    }
}
