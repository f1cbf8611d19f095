//! Plugins for a container that was made and does not run yet.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use molecule_hooks::PluginName;
use tokio::time::{Instant, timeout_at};

use super::super::Inner;
use super::super::container::CONFIG_PATH;
use super::super::upload;
use super::leftovers::is_complete;
use super::program::unreadable;
use super::staged::{Emptied, Seed};
use super::step_failed;
use crate::backend::plugins::PLUGINS_FOLDER;
use crate::backend::scrub::Scrubber;
use crate::backend::{DeliveryError, Phase, PluginDelivery, PluginSupply, Progress, SupplyResult};

/// What all of it may take: an agent without a plugin is better than none.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Plugins that are looked for, or fetched, at once.
const AT_ONCE: usize = 4;

/// Brings what is missing.
pub(in super::super) struct Seeding<'a> {
    pub(in super::super) inner: &'a Inner,
    pub(in super::super) container: &'a str,
    pub(in super::super) progress: &'a Progress,
    /// The volume is new: nothing can be there.
    pub(in super::super) new: bool,
}

impl Seeding<'_> {
    /// Looks what is there of what `supply` wants, and brings the rest. Fails nothing:
    /// every result is told to the supply.
    pub(in super::super) async fn run(&self, supply: &dyn PluginSupply) {
        let deadline = Instant::now() + TIMEOUT;
        let mut fetches = Vec::new();
        for name in self.missing(supply, deadline).await {
            let fetch = async move {
                let fetched = timeout_at(deadline, supply.delivery(&name)).await;
                (name, fetched.unwrap_or_else(|_| Err(late())))
            };
            fetches.push(fetch.boxed());
        }
        let mut fetched = stream::iter(fetches).buffered(AT_ONCE);
        while let Some((name, delivery)) = fetched.next().await {
            self.progress
                .tell(Phase::Copy, format!("plugin {name}"), None);
            let result = match delivery {
                Ok(delivery) if delivery.name == name => self.bring(delivery, deadline).await,
                Ok(_) => Err("it is another plugin".to_owned()),
                Err(reason) => Err(reason),
            };
            let result = match result {
                Ok(()) => SupplyResult::Delivered,
                Err(reason) => SupplyResult::Failed(reason),
            };
            supply.done(&name, result);
        }
    }

    /// Which of them are to be brought. Tells about the others.
    async fn missing(&self, supply: &dyn PluginSupply, deadline: Instant) -> Vec<PluginName> {
        let mut looks = Vec::new();
        for wanted in supply.wanted() {
            looks.push(self.look(wanted.name.clone(), deadline).boxed());
        }
        let mut looked = stream::iter(looks).buffered(AT_ONCE);
        let mut missing = Vec::new();
        while let Some((name, found)) = looked.next().await {
            match found {
                Some(result) => supply.done(&name, result),
                None => missing.push(name),
            }
        }
        missing
    }

    /// What is known of a plugin; nothing if it is to be brought.
    async fn look(
        &self,
        name: PluginName,
        deadline: Instant,
    ) -> (PluginName, Option<SupplyResult>) {
        if self.new {
            return (name, None);
        }
        let daemon = &self.inner.daemon;
        let found = match timeout_at(deadline, is_complete(daemon, self.container, &name)).await {
            Ok(Ok(true)) => Some(SupplyResult::Present),
            Ok(Ok(false)) => None,
            Ok(Err(error)) => Some(SupplyResult::Failed(error.text(&Scrubber::plain()))),
            Err(_) => Some(SupplyResult::Failed(late())),
        };
        (name, found)
    }

    async fn bring(&self, delivery: PluginDelivery, deadline: Instant) -> Result<(), String> {
        let path = format!("{PLUGINS_FOLDER}/{}", delivery.name);
        let (daemon, seed) = (&self.inner.daemon, Seed { delivery });
        let sending = upload::send(daemon, self.container, CONFIG_PATH, seed);
        let error: DeliveryError = match timeout_at(deadline, sending).await {
            Ok(Ok((Ok(()), Ok(())))) => return Ok(()),
            Ok(Ok((written @ Err(super::super::archive::ArchiveError::Read(..)), _))) => {
                unreadable(written)
            }
            Ok(Ok((_, Err(error))) | Err(error)) => step_failed("stage", error),
            Ok(Ok((written, Ok(())))) => unreadable(written),
            Err(_) => DeliveryError::Step {
                step: "stage",
                reason: late(),
            },
        };
        // Half of a plugin is worse than an empty folder, which keeps its name.
        let emptied = upload::send(daemon, self.container, CONFIG_PATH, Emptied { path }).await;
        if !matches!(emptied, Ok((Ok(()), Ok(())))) {
            tracing::warn!(
                container = self.container,
                "half of a plugin stays where it was to be: without its marker"
            );
        }
        Err(error.to_string())
    }
}

fn late() -> String {
    "it did not end in time".to_owned()
}
