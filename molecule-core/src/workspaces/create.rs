//! `POST /workspaces`: from a payload to a row and a provision.

use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::connection;
use super::model::Status;
use super::payload::{CreateWorkspace, NewWorkspace};
use super::provision::NO_BACKEND;
use super::store::lease::{Again, Lease};
use super::template::{self, ConfigFacts};
use super::{Workspaces, store};
use crate::error::{Error, Result};
use crate::events::{Event, EventType};
use crate::secrets::model_secrets;
use crate::store::{Tx, timestamp};

/// The documented reply, 201 in every case.
pub(crate) struct Created(pub(crate) Value);

impl Workspaces {
    /// Creates a workspace and, unless it is external, starts booting its agent.
    /// Once the row is committed, neither a lost client nor a failing backend
    /// takes it back: the row then says what happened.
    ///
    /// # Errors
    /// The documented 400s, each with a `detail`; 409 for a second child of one
    /// name; 500 `failed to create workspace`.
    pub(crate) async fn create(
        &self,
        payload: CreateWorkspace,
        external_url: &str,
    ) -> Result<Created> {
        let mut new = payload.check()?;
        self.apply_template(&mut new).await?;
        let (this, external_url) = (self.clone(), external_url.to_owned());
        self.detached("create-workspace", async move {
            match new.external {
                true => this.create_external(new, &external_url).await,
                false => this.create_hosted(new).await,
            }
        })
        .await
    }

    /// Checks the template before anything is written, and takes runtime and model
    /// from it where the caller gave none.
    pub(super) async fn apply_template(&self, new: &mut NewWorkspace) -> Result<()> {
        let config = &self.services.config.workspaces;
        if let Some(name) = &new.template {
            let unknown =
                |detail: String| Error::invalid("invalid template").with("detail", detail);
            let Some(root) = &config.templates_dir else {
                return Err(unknown(
                    "template: this server has no templates directory".into(),
                ));
            };
            let dir = template::named(root, name)
                .await
                .ok_or_else(|| unknown("template: there is no template of that name".into()))?;
            let facts = ConfigFacts::of_folder(&dir).await;
            new.runtime = new.runtime.take().or(facts.runtime);
            new.model = new.model.take().or(facts.model);
        }
        new.runtime
            .get_or_insert_with(|| config.default_runtime.clone());
        Ok(())
    }

    async fn create_hosted(&self, new: NewWorkspace) -> Result<Created> {
        let services = &self.services;
        let id = Uuid::new_v4();
        let mut tx = services.db.begin().await.map_err(failed)?;
        self.insert(&mut tx, id, &new, Status::Provisioning).await?;
        let payload = json!({ "name": new.name, "tier": new.tier, "runtime": new.runtime });
        let event = self
            .record(&mut tx, EventType::WorkspaceProvisioning, id, payload)
            .await?;
        let mut reply = json!({
            "id": id,
            "status": "provisioning",
            "awareness_namespace": namespace(id),
            "workspace_access": new.workspace_access,
        });
        if services.has_no_backend() {
            // Its agent runs elsewhere and gets its first token by registering.
            let secret = services.auth.issue_enrolment(&mut tx, id).await?;
            reply["enrolment_secret"] = json!(secret.expose());
            let data = json!({
                "name": new.name,
                "runtime": new.runtime,
                "tier": new.tier,
                "template": new.template.as_deref().unwrap_or_default(),
            });
            store::put_config(&mut tx, id, &data)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        services.hierarchy.forget();
        services.events.publish(event);
        match services.has_no_backend() {
            true => {
                let failed =
                    services.mark_failed(Lease::first(id), NO_BACKEND, &[], Again::default());
                // The row is committed and the caller must hear of it, secret and
                // all; recovery writes the outcome then.
                if let Err(error) = failed.await {
                    tracing::error!(workspace.id = %id, ?error, "outcome not written; recovery will retry");
                }
            }
            false => self.provisioner.spawn(id),
        }
        Ok(Created(reply))
    }

    async fn create_external(&self, new: NewWorkspace, external_url: &str) -> Result<Created> {
        let services = &self.services;
        let id = Uuid::new_v4();
        let online = new.url.is_some();
        let status = if online {
            Status::Online
        } else {
            Status::AwaitingAgent
        };
        let event_type = match online {
            true => EventType::WorkspaceOnline,
            false => EventType::WorkspaceAwaitingAgent,
        };
        let mut tx = services.db.begin().await.map_err(failed)?;
        self.insert(&mut tx, id, &new, status).await?;
        let payload = json!({ "name": new.name, "external": true });
        let event = self.record(&mut tx, event_type, id, payload).await?;
        let mut reply = json!({ "id": id, "external": true, "status": status.as_str() });
        if online {
            // Its agent gets its first token by registering.
            let secret = services.auth.issue_enrolment(&mut tx, id).await?;
            reply["enrolment_secret"] = json!(secret.expose());
        } else {
            let token = services.auth.issue(&mut tx, id).await?;
            reply["connection"] = connection(id, external_url, Some(token.expose()));
        }
        tx.commit().await.map_err(failed)?;
        services.hierarchy.forget();
        services.events.publish(event);
        Ok(Created(reply))
    }

    async fn insert(
        &self,
        tx: &mut Tx,
        id: Uuid,
        new: &NewWorkspace,
        status: Status,
    ) -> Result<()> {
        self.insert_row(tx, id, new, status).await?;
        for (key, value) in &new.secrets {
            self.services.secrets.put(tx, id, key, value).await?;
        }
        for (key, value) in new.model.as_deref().map(model_secrets).unwrap_or_default() {
            if !new.secrets.contains_key(key) {
                self.services.secrets.put(tx, id, key, &value).await?;
            }
        }
        // After the secrets: by now the redactor knows them.
        self.services.store_memories(tx, id, &new.memories).await
    }

    /// Writes the row without its secrets.
    ///
    /// # Errors
    /// 400 for an unknown parent, 409 for a second child of one name.
    pub(super) async fn insert_row(
        &self,
        tx: &mut Tx,
        id: Uuid,
        new: &NewWorkspace,
        status: Status,
    ) -> Result<()> {
        if let Some(parent) = new.parent_id
            && !store::lock_live(tx, parent).await.map_err(failed)?
        {
            return Err(Error::invalid("invalid workspace payload")
                .with("detail", "parent_id: there is no such workspace"));
        }
        let hosted = status == Status::Provisioning;
        let row = store::NewRow {
            id,
            status: status.as_str(),
            runtime: new.runtime.as_deref().unwrap_or_default(),
            url: new
                .url
                .as_deref()
                .filter(|_| new.external)
                .unwrap_or_default(),
            awareness_namespace: &namespace(id),
            lease_until: hosted.then(|| self.provisioner.lease_until()),
            now: timestamp(&self.services.clock),
        };
        store::insert(tx, new, &row)
            .await
            .map_err(|error| match &error {
                sqlx::Error::Database(refused) if refused.is_unique_violation() => {
                    Error::conflict("a workspace of that name already exists under this parent")
                }
                _ => failed(error),
            })
    }

    async fn record(
        &self,
        tx: &mut Tx,
        event: EventType,
        id: Uuid,
        payload: Value,
    ) -> Result<Event> {
        self.services
            .events
            .record(tx, event, id, payload)
            .await
            .map_err(failed)
    }
}

fn namespace(id: Uuid) -> String {
    format!("workspace:{id}")
}

pub(super) fn failed(error: sqlx::Error) -> Error {
    Error::from(error).says("failed to create workspace")
}
