//! Bringing one plugin into a running container.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::Inner;
use super::leftovers;
use super::program::{Fate, NotDone, Operation, Program, unreadable};
use super::staged::{Stage, measure};
use super::{running, step_failed};
use crate::backend::plugins::{Told, UnderWay};
use crate::backend::{BackendError, DeliveryError, PluginDelivery};

/// What cleaning up after a failure may take, and what a repair may.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(15);

/// One upload, one exec. Can be cancelled as long as only files are brought; the exec is
/// waited for, because what began inside the container does not stop.
pub(super) async fn run(
    inner: &Inner,
    workspace: Uuid,
    delivery: PluginDelivery,
    cancel: &CancellationToken,
) -> Result<(), DeliveryError> {
    let container = running(inner, workspace).await?;
    let under_way = inner.deliveries.begin(workspace);
    let program = Program::new(inner, &container, under_way.suffix());
    let name = delivery.name.clone();
    let (entries, bytes) = measure(&delivery);
    let staged = format!("{name}{}", under_way.suffix());
    let own = name.clone();
    let delivered = async {
        let turn = tokio::select! {
            biased;
            () = cancel.cancelled() => {
                return Err(DeliveryError::from(BackendError::Cancelled).into());
            }
            staged = stage(&program, delivery, &under_way) => staged?,
        };
        let swap = Operation::Swap {
            name,
            cutoff: under_way.cutoff(),
            entries,
            bytes,
        };
        let told = program.run(swap, true).await;
        drop(turn);
        told
    };
    let told: Result<Told, NotDone> = delivered.await;
    let not_done = match told {
        Ok(told) => {
            told.log(workspace);
            return Ok(());
        }
        Err(not_done) => not_done,
    };
    if leaves_something(&not_done) {
        let discard = program.discard(vec![staged], not_done.fate == Fate::Died);
        let _ = timeout(DISCARD_TIMEOUT, discard).await;
    }
    let NotDone { error, fate } = not_done;
    let is_absent = matches!(error, DeliveryError::Absent { .. });
    if !is_absent && fate != Fate::Died {
        return Err(error);
    }
    // The old tree may be among the previous ones, with nothing in its place.
    let repair = leftovers::repair_with(&program, &under_way, workspace);
    let repaired = timeout(DISCARD_TIMEOUT, repair).await;
    Err(match (repaired, error) {
        (Ok(Ok(restored)), DeliveryError::Absent { reason, .. }) if restored.contains(&own) => {
            let step = "exchange";
            DeliveryError::Step { step, reason }
        }
        (_, error) => error,
    })
}

/// Uploads the tree and waits for the turn to do the rest.
async fn stage(
    program: &Program<'_>,
    delivery: PluginDelivery,
    under_way: &UnderWay,
) -> Result<tokio::sync::OwnedMutexGuard<()>, DeliveryError> {
    let suffix = under_way.suffix().to_owned();
    let sent = program.upload(Stage { delivery, suffix }).await;
    match sent {
        Ok((Ok(()), Ok(()))) => Ok(under_way.turn().await),
        // Whoever gave the upload up is not to blame for the half archive.
        Ok((Err(error @ super::super::archive::ArchiveError::Read(..)), _)) => {
            Err(unreadable(Err(error)))
        }
        Ok((_, Err(error))) | Err(error) => Err(step_failed("stage", error)),
        Ok((written, Ok(()))) => Err(unreadable(written)),
    }
}

/// False when what was staged was removed, or may be needed, where it failed, or by what
/// may still run: deleting it then could delete a tree that just got its place.
fn leaves_something(not_done: &NotDone) -> bool {
    match &not_done.error {
        _ if not_done.fate == Fate::MayGoOn => false,
        DeliveryError::Step { step, .. } => matches!(*step, "stage" | "run" | "roots"),
        DeliveryError::Absent { .. } => false,
        _ => true,
    }
}
