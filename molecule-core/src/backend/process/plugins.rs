//! Plugins in the folders of workspaces that run as processes: the transaction that the
//! helper program does in a container, done by this server itself.

mod files;
mod seed;
mod stage;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use molecule_hooks::PluginName;
use rustix::fd::OwnedFd;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::files::Native;
pub(super) use self::seed::prepare;
use super::folder::Owner;
use super::{Inner, ProcessBackend, blocking, blocking_io};
use crate::backend::plugins::transaction::{self, Failed, Remove, Swap, remove, repair, swap};
use crate::backend::plugins::{
    InstalledFile, InstalledPlugin, PluginRemoval, Told, UnderWay, doomed_skills, marker_bytes,
};
use crate::backend::{DeliveryError, InstanceRef, PluginDelivery, PluginTarget};

const OPERATION: &str = "plugins";

#[async_trait]
impl PluginTarget for ProcessBackend {
    async fn deliver(
        &self,
        instance: &InstanceRef,
        delivery: &PluginDelivery,
        cancel: &CancellationToken,
    ) -> Result<(), DeliveryError> {
        let (inner, workspace, delivery) = (
            Arc::clone(&self.inner),
            instance.workspace_id,
            delivery.clone(),
        );
        let work = |token| async move {
            let configs = running(&inner, workspace).await?;
            put(&inner, workspace, configs, delivery, token).await
        };
        self.inner.tasks.run(cancel, work).await
    }

    async fn remove(
        &self,
        instance: &InstanceRef,
        removal: &PluginRemoval,
    ) -> Result<(), DeliveryError> {
        let (inner, workspace, removal) = (
            Arc::clone(&self.inner),
            instance.workspace_id,
            removal.clone(),
        );
        let work = |_| async move {
            let configs = running(&inner, workspace).await?;
            let under_way = inner.deliveries.begin(workspace);
            let turn = under_way.turn().await;
            let told = blocking(OPERATION, move || {
                let _turn = turn;
                take_out(&configs, &removal, &under_way)
            });
            told.await??.log(workspace);
            Ok(())
        };
        self.inner.tasks.run(&CancellationToken::new(), work).await
    }

    async fn list(&self, instance: &InstanceRef) -> Result<Vec<InstalledPlugin>, DeliveryError> {
        let configs = running(&self.inner, instance.workspace_id).await?;
        blocking(OPERATION, move || list(&open(&configs)?)).await?
    }

    async fn files(
        &self,
        instance: &InstanceRef,
        plugin: &PluginName,
    ) -> Result<Option<Vec<InstalledFile>>, DeliveryError> {
        let configs = running(&self.inner, instance.workspace_id).await?;
        let plugin = plugin.clone();
        blocking(OPERATION, move || {
            files::hashes(&open(&configs)?, &plugin).map_err(|error| DeliveryError::Step {
                step: "read",
                reason: error.to_string(),
            })
        })
        .await?
    }

    async fn repair(&self, instance: &InstanceRef) -> Result<Vec<PluginName>, DeliveryError> {
        let workspace = instance.workspace_id;
        let configs = running(&self.inner, workspace).await?;
        let told = put_right(&self.inner, workspace, configs).await?;
        Ok(told.restored)
    }
}

/// The config folder of a workspace whose agent runs.
async fn running(inner: &Inner, workspace: Uuid) -> Result<PathBuf, DeliveryError> {
    let folder = inner.folder(workspace);
    let found = blocking_io(OPERATION, move || {
        if folder.owner()? != Owner::Us {
            return Ok(None);
        }
        match folder.read_record()? {
            Some(record) if record.runs()? => Ok(Some(folder.configs())),
            _ => Ok(None),
        }
    });
    found.await?.ok_or(DeliveryError::NotRunning)
}

/// Brings a tree and swaps it in. Can be cancelled as long as files are brought.
async fn put(
    inner: &Inner,
    workspace: Uuid,
    configs: PathBuf,
    delivery: PluginDelivery,
    cancel: CancellationToken,
) -> Result<(), DeliveryError> {
    let under_way = Arc::new(inner.deliveries.begin(workspace));
    let (own, path) = (Arc::clone(&under_way), configs.clone());
    let staging = delivery.clone();
    let staged = blocking(OPERATION, move || {
        let stop = || cancel.is_cancelled();
        stage::write(&open(&path)?, &staging, own.suffix(), &stop)
    });
    let size = staged.await??;
    let turn = under_way.turn().await;
    let told = blocking(OPERATION, move || {
        let _turn = turn;
        let mut told = Told::default();
        let cutoff = under_way.cutoff();
        let job = Swap {
            name: delivery.name.as_str().as_bytes(),
            suffix: under_way.suffix().as_bytes(),
            cutoff: cutoff.as_bytes(),
            entries: size.entries,
            bytes: size.bytes,
        };
        swap(&Native, &open(&configs)?, &job, &mut told)?;
        Ok::<_, DeliveryError>(told)
    });
    told.await??.log(workspace);
    Ok(())
}

/// Repairs the folder of a workspace, whether it runs or not.
async fn put_right(
    inner: &Inner,
    workspace: Uuid,
    configs: PathBuf,
) -> Result<Told, DeliveryError> {
    let under_way = inner.deliveries.begin(workspace);
    let turn = under_way.turn().await;
    let told = blocking(OPERATION, move || {
        let _turn = turn;
        let mut told = Told::default();
        repair(
            &Native,
            &open(&configs)?,
            under_way.cutoff().as_bytes(),
            &mut told,
        )?;
        Ok::<_, DeliveryError>(told)
    });
    let told = told.await??;
    told.log(workspace);
    Ok(told)
}

fn take_out(
    configs: &Path,
    removal: &PluginRemoval,
    under_way: &UnderWay,
) -> Result<Told, DeliveryError> {
    let configs = open(configs)?;
    let skills = doomed_skills(removal, &files::ledger(&configs), &list(&configs)?);
    let mut told = Told::default();
    let job = Remove {
        name: removal.name.as_str().as_bytes(),
        suffix: under_way.suffix().as_bytes(),
    };
    let mut skills = skills.iter().map(|skill| skill.as_str().as_bytes());
    remove(&Native, &configs, &job, &mut skills, &mut told)?;
    Ok(told)
}

fn list(configs: &OwnedFd) -> Result<Vec<InstalledPlugin>, DeliveryError> {
    let (mut manifest, mut marker) = marker_bytes();
    let mut told = Told::default();
    transaction::list(&Native, configs, (&mut manifest, &mut marker), &mut told)?;
    told.plugins.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(told.plugins)
}

fn open(configs: &Path) -> Result<OwnedFd, DeliveryError> {
    files::open_configs(configs).map_err(|errno| {
        let step = transaction::Step::Roots;
        DeliveryError::from(Failed {
            step,
            errno,
            rollback: 0,
        })
    })
}
