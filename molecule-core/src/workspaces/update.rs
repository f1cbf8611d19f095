//! `PATCH /workspaces/:id`: all fields of a request or none, and no circle of
//! parents.

use serde::{Deserialize, Deserializer};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::rules::{check_dir, check_text, check_tier};
use super::store::update::{Current, Layout};
use super::{Workspaces, store};
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::store::{Topic, Tx, timestamp};

/// A field that may be left out, `null` or a value.
type Field<T> = Option<Option<T>>;

/// Changes to a workspace. What is left out stays as it is; unknown fields are
/// ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct UpdateWorkspace {
    /// Display name.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<String>)]
    name: Field<String>,
    /// Free text; `null` clears it.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<String>)]
    role: Field<String>,
    /// Isolation tier, 1 to 4; in force with the next start.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<i64>)]
    tier: Field<i64>,
    /// UUID of the parent workspace; `null` makes it a root.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<String>)]
    parent_id: Field<String>,
    /// Agent runtime; in force with the next start.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<String>)]
    runtime: Field<String>,
    /// Host folder to mount as `/workspace`; `null` clears it. In force with the next
    /// start.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<String>)]
    workspace_dir: Field<String>,
    /// Whether its team is folded away on the canvas.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<bool>)]
    collapsed: Field<bool>,
    /// Place on the canvas; only together with `y`.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<f64>)]
    x: Field<f64>,
    /// Place on the canvas; only together with `x`.
    #[serde(default, deserialize_with = "field")]
    #[schema(value_type = Option<f64>)]
    y: Field<f64>,
}

/// Tells a missing field from an explicit `null`.
fn field<'de, T, D>(deserializer: D) -> std::result::Result<Field<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Who changes a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Operator,
    /// Its agent, who must not widen what it was given.
    Itself,
}

/// A checked request: what it sets. The inner `None` clears a field.
#[derive(Debug, Default)]
struct Changes {
    name: Option<String>,
    role: Field<String>,
    tier: Option<i64>,
    parent_id: Field<Uuid>,
    runtime: Option<String>,
    workspace_dir: Field<String>,
    collapsed: Option<bool>,
    place: Option<(f64, f64)>,
}

impl UpdateWorkspace {
    /// Checks what needs no database.
    ///
    /// # Errors
    /// 400 with the documented text.
    fn check(self) -> Result<Changes> {
        let name = text("name", self.name)?;
        let runtime = text("runtime", self.runtime)?;
        let role = self.role.map(filled);
        if let Some(Some(role)) = &role {
            check_text("role", role).map_err(Error::invalid)?;
        }
        let tier = value("tier", self.tier)?
            .map(check_tier)
            .transpose()
            .map_err(Error::invalid)?;
        let parent_id = match self.parent_id.map(filled) {
            Some(Some(id)) => {
                let id = Uuid::parse_str(&id).map_err(|_| body("parent_id must be a UUID"))?;
                Some(Some(id))
            }
            other => other.map(|_| None),
        };
        let workspace_dir = self.workspace_dir.map(filled);
        if let Some(Some(dir)) = &workspace_dir {
            check_dir(dir).map_err(|detail| {
                Error::invalid("invalid workspace directory").with("detail", detail)
            })?;
        }
        let place = match (value("x", self.x)?, value("y", self.y)?) {
            (None, None) => None,
            (Some(x), Some(y)) if x.is_finite() && y.is_finite() => Some((x, y)),
            (Some(_), Some(_)) => return Err(body("x and y must be finite numbers")),
            _ => return Err(body("x and y must be given together")),
        };
        Ok(Changes {
            name,
            role,
            tier,
            parent_id,
            runtime,
            workspace_dir,
            collapsed: value("collapsed", self.collapsed)?,
            place,
        })
    }
}

fn body(detail: impl Into<String>) -> Error {
    Error::invalid("invalid request body").with("detail", detail.into())
}

/// A value that may be left out but not cleared.
fn value<T>(name: &str, field: Field<T>) -> Result<Option<T>> {
    match field {
        Some(None) => Err(body(format!("{name} must not be null"))),
        other => Ok(other.flatten()),
    }
}

/// As [`value`], for a text that may not be empty either.
fn text(name: &str, field: Field<String>) -> Result<Option<String>> {
    let found = value(name, field)?;
    if let Some(text) = &found {
        if text.is_empty() {
            return Err(Error::invalid(format!("{name} must not be empty")));
        }
        check_text(name, text).map_err(Error::invalid)?;
    }
    Ok(found)
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl Workspaces {
    /// Changes a workspace, with one event that names the fields that are different
    /// now. True when the change takes a restart to be seen by the agent.
    ///
    /// # Errors
    /// The documented 400s; 403 for an agent that asks for a higher tier, another
    /// folder of the host, or another identity where that is fixed; 404 `workspace not found`; 409 when the name is taken or
    /// the new parent is the workspace itself or below it.
    pub(crate) async fn update(&self, id: Uuid, update: UpdateWorkspace, by: By) -> Result<bool> {
        let changes = update.check()?;
        let needs_restart = changes.workspace_dir.is_some();
        let services = &self.services;
        let failed = |error: sqlx::Error| Error::from(error).says("update failed");
        let mut tx = services.db.begin().await.map_err(failed)?;
        let mut row = lock(&mut tx, id, changes.parent_id.flatten()).await?;
        if by == By::Itself {
            changes.check_own(&row)?;
            if services.config.workspaces.fixed_identity {
                changes.check_identity(&row)?;
            }
        }
        let mut changed = changes.apply(&mut row)?;
        let now = timestamp(&services.clock);
        if !changed.is_empty() {
            let written = store::update::write(&mut tx, id, &row, now).await;
            written.map_err(|error| match &error {
                sqlx::Error::Database(refused) if refused.is_unique_violation() => {
                    Error::conflict("a workspace of that name already exists under this parent")
                }
                _ => failed(error),
            })?;
        }
        if changes.place.is_some() || changes.collapsed.is_some() {
            let mut layout = store::update::layout(&mut tx, id).await.map_err(failed)?;
            let moved = changes.arrange(&mut layout);
            if !moved.is_empty() {
                let written = store::update::write_layout(&mut tx, id, layout).await;
                written.map_err(failed)?;
                changed.extend(moved);
            }
        }
        if changed.is_empty() {
            return Ok(needs_restart);
        }
        let payload = json!({ "changed": changed });
        let event = services
            .events
            .record(&mut tx, EventType::WorkspaceUpdated, id, payload)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        services.hierarchy.forget();
        services.directory.forget(id);
        services.relay.send(Topic::WorkspaceChanged, id.to_string());
        services.events.publish(event);
        Ok(needs_restart)
    }
}

/// The row of a workspace, locked together with its new parent, which is there and
/// not below it. That stays so until the transaction ends: whoever else moves
/// workspaces waits.
async fn lock(tx: &mut Tx, id: Uuid, parent: Option<Uuid>) -> Result<Current> {
    let not_found = || Error::not_found("workspace not found");
    let failed = |error: sqlx::Error| Error::from(error).says("update failed");
    let Some(parent) = parent else {
        let row = store::update::lock(tx, id).await.map_err(failed)?;
        return row.ok_or_else(not_found);
    };
    store::update::lock_hierarchy(tx).await.map_err(failed)?;
    // By id, like every batch of rows.
    let (row, has_parent) = match parent < id {
        true => {
            let has_parent = store::lock_live(tx, parent).await.map_err(failed)?;
            (
                store::update::lock(tx, id).await.map_err(failed)?,
                has_parent,
            )
        }
        false => {
            let row = store::update::lock(tx, id).await.map_err(failed)?;
            (row, store::lock_live(tx, parent).await.map_err(failed)?)
        }
    };
    let row = row.ok_or_else(not_found)?;
    if !has_parent {
        return Err(body("parent_id: there is no such workspace"));
    }
    let is_circle = parent == id
        || store::update::is_above(tx, id, parent)
            .await
            .map_err(failed)?;
    match is_circle {
        true => Err(Error::conflict(
            "parent_id would put the workspace below itself",
        )),
        false => Ok(row),
    }
}

impl Changes {
    /// Refuses what takes away the limits that an operator set. To say once more
    /// what is so already changes nothing.
    fn check_own(&self, row: &Current) -> Result<()> {
        if self.tier.is_some_and(|tier| tier > row.tier) {
            return Err(Error::forbidden("a workspace cannot raise its own tier"));
        }
        match &self.workspace_dir {
            Some(dir) if *dir != row.workspace_dir => Err(Error::forbidden(
                "a workspace cannot change its own workspace_dir",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses another identity: hooks may decide by it what an agent gets to know.
    fn check_identity(&self, row: &Current) -> Result<()> {
        let name = self.name.as_ref().is_some_and(|name| *name != row.name);
        let role = self.role.as_ref().is_some_and(|role| *role != row.role);
        let runtime = self.runtime.as_ref().is_some_and(|new| *new != row.runtime);
        let refused = [(name, "name"), (role, "role"), (runtime, "runtime")];
        match refused.iter().find(|(differs, _)| *differs) {
            Some((_, field)) => Err(Error::forbidden(format!(
                "a workspace cannot change its own {field}"
            ))),
            None => Ok(()),
        }
    }

    /// Changes the row; answers with the fields that were different.
    fn apply(&self, row: &mut Current) -> Result<Vec<&'static str>> {
        let was_external = row.runtime == "external" || row.external;
        let mut changed = Vec::new();
        set("name", &self.name, &mut row.name, &mut changed);
        set("role", &self.role, &mut row.role, &mut changed);
        set("tier", &self.tier, &mut row.tier, &mut changed);
        set(
            "parent_id",
            &self.parent_id,
            &mut row.parent_id,
            &mut changed,
        );
        set("runtime", &self.runtime, &mut row.runtime, &mut changed);
        let dir = &mut row.workspace_dir;
        set("workspace_dir", &self.workspace_dir, dir, &mut changed);
        if row.runtime == "external" && !was_external {
            // Its compute is ours to stop, and would be nobody's.
            return Err(Error::invalid("runtime cannot be changed to external"));
        }
        Ok(changed)
    }

    /// As [`apply`](Self::apply), for the canvas.
    fn arrange(&self, layout: &mut Layout) -> Vec<&'static str> {
        let mut changed = Vec::new();
        set(
            "collapsed",
            &self.collapsed,
            &mut layout.collapsed,
            &mut changed,
        );
        set(
            "x",
            &self.place.map(|(x, _)| x),
            &mut layout.x,
            &mut changed,
        );
        set(
            "y",
            &self.place.map(|(_, y)| y),
            &mut layout.y,
            &mut changed,
        );
        changed
    }
}

fn set<T: Clone + PartialEq>(
    name: &'static str,
    new: &Option<T>,
    current: &mut T,
    changed: &mut Vec<&'static str>,
) {
    if let Some(new) = new
        && new != current
    {
        current.clone_from(new);
        changed.push(name);
    }
}
