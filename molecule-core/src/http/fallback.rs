//! What happens to requests that no route takes.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode};

use super::ApiError;
use super::proxy::{CONTROL_PLANE_ROUTE, Proxies};
use super::templates::Templates;
use crate::error::Error;

/// Redirects, the proxies and the 404.
pub(super) struct Fallback {
    templates: Templates,
    proxies: Proxies,
}

impl Fallback {
    pub(super) fn new(templates: Templates, proxies: Proxies) -> Arc<Self> {
        Arc::new(Self { templates, proxies })
    }

    /// Gives every request an answer that the routes do not.
    pub(super) fn put_behind(self: Arc<Self>, routes: Router) -> Router {
        let has_control_plane = self.proxies.control_plane.is_some();
        let handler = move |request: Request| {
            let this = Arc::clone(&self);
            async move { this.answer(request).await }
        };
        let routes = match has_control_plane {
            true => routes.route(CONTROL_PLANE_ROUTE, any(handler.clone())),
            false => routes,
        };
        // The wire has no 405: a wrong method is an unknown route.
        routes
            .method_not_allowed_fallback(not_found)
            .fallback(handler)
    }

    async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path();
        if let Some(control_plane) = &self.proxies.control_plane
            && path.starts_with("/cp/")
        {
            return control_plane.forward(request).await;
        }
        if let Some(other) = self.templates.other_form(request.method(), path) {
            return redirect(&request, other);
        }
        match &self.proxies.canvas {
            Some(canvas) => canvas.forward(request).await,
            None => not_found().await.into_response(),
        }
    }
}

async fn not_found() -> ApiError {
    Error::not_found("404 page not found").into()
}

fn redirect(request: &Request, mut to: String) -> Response {
    if let Some(query) = request.uri().query() {
        to.push('?');
        to.push_str(query);
    }
    let status = match *request.method() {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::TEMPORARY_REDIRECT,
    };
    // What was a request line is a header value.
    let to = HeaderValue::try_from(to).unwrap_or(HeaderValue::from_static("/"));
    (status, [(LOCATION, to)]).into_response()
}
