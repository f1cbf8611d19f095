//! The routes' templates, for the one question that the router does not answer:
//! whether a path would be a route with, or without, a slash at its end.

use http::Method;
use utoipa::openapi::{OpenApi, PathItem};

/// The routes of a document.
pub(super) struct Templates(Vec<(String, Vec<Method>)>);

impl Templates {
    pub(super) fn of(document: &OpenApi) -> Self {
        let routes = document.paths.paths.iter();
        Self(
            routes
                .map(|(template, item)| (template.clone(), methods(item)))
                .collect(),
        )
    }

    /// The path with a slash more or less, if that is a route.
    pub(super) fn other_form(&self, method: &Method, path: &str) -> Option<String> {
        let other = match path.strip_suffix('/') {
            Some(shorter) => shorter.to_owned(),
            None => format!("{path}/"),
        };
        self.has(method, &other).then_some(other)
    }

    fn has(&self, method: &Method, path: &str) -> bool {
        self.0
            .iter()
            .any(|(template, methods)| methods.contains(method) && matches(template, path))
    }
}

fn methods(item: &PathItem) -> Vec<Method> {
    [
        // What answers GET answers HEAD.
        (Method::GET, &item.get),
        (Method::HEAD, &item.get),
        (Method::POST, &item.post),
        (Method::PUT, &item.put),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
        (Method::OPTIONS, &item.options),
    ]
    .into_iter()
    .filter(|(_, operation)| operation.is_some())
    .map(|(method, _)| method)
    .collect()
}

fn matches(template: &str, path: &str) -> bool {
    let mut asked = path.split('/');
    for part in template.split('/') {
        let is_rest = part.starts_with("{*");
        let is_any = part.starts_with('{') && part.ends_with('}');
        match asked.next() {
            Some(segment) if is_rest => return !segment.is_empty(),
            Some(segment) if is_any && !segment.is_empty() => {}
            Some(segment) if segment == part => {}
            _ => return false,
        }
    }
    asked.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_whole_paths() {
        for (template, path, expected) in [
            ("/health", "/health", true),
            ("/health", "/health/", false),
            ("/health", "/healthy", false),
            ("/workspaces/{id}", "/workspaces/a", true),
            ("/workspaces/{id}", "/workspaces/", false),
            ("/workspaces/{id}", "/workspaces/a/b", false),
            ("/workspaces/{id}", "//workspaces/a", false),
            ("/workspaces/{id}/tokens", "/workspaces/a/tokens", true),
            ("/workspaces/{id}/tokens", "/workspaces//tokens", false),
            ("/files/{*path}", "/files/a/b/c", true),
            ("/files/{*path}", "/files/", false),
            ("/list/", "/list/", true),
            ("/list/", "/list", false),
        ] {
            assert_eq!(matches(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn the_other_form_is_never_another_host() {
        let templates = Templates(vec![
            ("/{a}/{b}".to_owned(), vec![Method::GET]),
            ("/list/".to_owned(), vec![Method::GET]),
        ]);
        let other = |path: &str| templates.other_form(&Method::GET, path);
        assert_eq!(other("//evil.example/"), None);
        assert_eq!(other("/a/b/").as_deref(), Some("/a/b"));
        assert_eq!(other("/list").as_deref(), Some("/list/"));
        assert_eq!(other("/"), None);
        assert_eq!(templates.other_form(&Method::POST, "/a/b/"), None);
    }
}
