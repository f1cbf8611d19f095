//! `/workspaces/{id}/model`.

use axum::extract::State;
use molecule_hooks::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{BAD_BODY, bad_body, existing_workspace, to_the_end, workspace_id};
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};
use crate::secrets::check_model;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_model, put_model))
}

/// The model of a workspace.
#[derive(Serialize, ToSchema)]
struct Model {
    /// Empty when none was set.
    model: String,
    /// `workspace_secrets` or `default`.
    source: &'static str,
}

/// The model to use.
#[derive(Deserialize, ToSchema)]
struct SetModel {
    /// Model identifier such as `anthropic/claude`; empty for the runtime's own.
    model: Option<String>,
}

/// The model was set.
#[derive(Serialize, ToSchema)]
struct ModelSet {
    /// `saved` or `cleared`.
    status: &'static str,
    /// Absent when cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/model",
    tag = "secrets",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    responses(
        (status = 200, body = Model),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_model(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
) -> ApiResult<Json<Model>> {
    let id = existing_workspace(&app, &id).await?;
    let found = app.secrets.model(id).await?;
    let source = match found {
        Some(_) => "workspace_secrets",
        None => "default",
    };
    let model = found.unwrap_or_default();
    Ok(Json(Model { model, source }))
}

#[utoipa::path(
    put,
    path = "/workspaces/{id}/model",
    tag = "secrets",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    request_body = SetModel,
    responses(
        (status = 200, body = ModelSet, description = "set; the agent restarts if the model is another one"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn put_model(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<ModelSet>> {
    let id = workspace_id(&id)?;
    let body: SetModel = body.decode(BAD_BODY)?;
    // A forgotten field must not clear anything.
    let model = body.model.ok_or_else(|| bad_body("model: is required"))?;
    check_model(&model).map_err(|problem| bad_body(&format!("model: {problem}")))?;
    let model = Some(model).filter(|model| !model.is_empty());
    let (secrets, wanted) = (app.secrets.clone(), model.clone().map(Secret::new));
    to_the_end(
        &app,
        async move { secrets.set_model(id, wanted.as_ref()).await },
    )
    .await?;
    let status = match model {
        Some(_) => "saved",
        None => "cleared",
    };
    Ok(Json(ModelSet { status, model }))
}
