//! The document that describes the wire.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Info, OpenApi, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;

/// The OpenAPI document of a router. Routes are closed unless they say
/// otherwise.
pub(crate) fn document<S: Clone + Send + Sync + 'static>(routes: OpenApiRouter<S>) -> OpenApi {
    let (_, mut document) = routes.split_for_parts();
    document.info = Info::new("Molecule", env!("CARGO_PKG_VERSION"));
    document.info.description =
        Some("The server that provisions and keeps agent workspaces.".to_owned());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    document.security = Some(vec![SecurityRequirement::new(
        "bearer",
        Vec::<String>::new(),
    )]);
    document
}
