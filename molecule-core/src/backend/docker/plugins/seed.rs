//! Plugins for a container that was made and does not run yet.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use molecule_hooks::PluginName;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::super::Inner;
use super::super::container::CONFIG_PATH;
use super::super::upload;
use super::leftovers::is_complete;
use super::program::unreadable;
use super::staged::{Emptied, Seed};
use super::step_failed;
use crate::backend::plugins::{self, PLUGINS_FOLDER};
use crate::backend::scrub::Scrubber;
use crate::backend::{
    DeliveryError, Phase, PluginDelivery, PluginSupply, Progress, SupplyResult, WantedPlugin,
};

/// What emptying the place of half a plugin may take.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(15);
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
    pub(in super::super) async fn run(&self, supply: &Arc<dyn PluginSupply>) {
        plugins::with_signs(self.progress, self.bring_all(supply)).await;
    }

    async fn bring_all(&self, supply: &Arc<dyn PluginSupply>) {
        let deadline = plugins::deadline(&**supply);
        let mut fetches = Vec::new();
        for name in self.missing(&**supply, deadline).await {
            fetches.push(fetch(Arc::clone(supply), name, deadline));
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
            looks.push(self.look(wanted, deadline).boxed());
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
        wanted: &WantedPlugin,
        deadline: Instant,
    ) -> (PluginName, Option<SupplyResult>) {
        let name = wanted.name.clone();
        if self.new {
            return (name, None);
        }
        let daemon = &self.inner.daemon;
        let found = match timeout_at(deadline, is_complete(daemon, self.container, wanted)).await {
            Ok(Ok(true)) => Some(SupplyResult::Present),
            Ok(Ok(false)) => None,
            Ok(Err(error)) => Some(SupplyResult::Failed(error.text(&Scrubber::plain()))),
            Err(_) => Some(SupplyResult::Failed(late())),
        };
        (name, found)
    }

    async fn bring(&self, delivery: PluginDelivery, deadline: Instant) -> Result<(), String> {
        if Instant::now() >= deadline {
            return Err(late());
        }
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
        let emptying = upload::send(daemon, self.container, CONFIG_PATH, Emptied { path });
        let emptied = timeout(EMPTY_TIMEOUT, emptying).await;
        if !matches!(emptied, Ok(Ok((Ok(()), Ok(()))))) {
            tracing::warn!(
                container = self.container,
                "half of a plugin stays where it was to be: without its marker"
            );
        }
        Err(error.to_string())
    }
}

/// Fetches a plugin as a task, from when this is asked for the first time: fetching has
/// bounds of its own, which must not run out while something else is awaited.
async fn fetch(
    supply: Arc<dyn PluginSupply>,
    name: PluginName,
    deadline: Instant,
) -> (PluginName, Result<PluginDelivery, String>) {
    let own = name.clone();
    let fetching = async move { timeout_at(deadline, supply.delivery(&own)).await };
    let fetched = AbortOnDropHandle::new(tokio::spawn(fetching)).await;
    let delivery = match fetched {
        Ok(fetched) => fetched.unwrap_or_else(|_| Err(late())),
        Err(_) => Err("fetching it broke off".to_owned()),
    };
    (name, delivery)
}

fn late() -> String {
    "it did not end in time".to_owned()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::time::sleep;

    use super::*;

    /// Takes two steps, and has an end of its own.
    struct Hurried;

    #[async_trait]
    impl PluginSupply for Hurried {
        fn wanted(&self) -> &[WantedPlugin] {
            &[]
        }
        async fn delivery(&self, _: &PluginName) -> Result<PluginDelivery, String> {
            let work = async {
                sleep(Duration::from_secs(1)).await;
                sleep(Duration::from_secs(1)).await;
            };
            match timeout(Duration::from_secs(5), work).await {
                Ok(()) => Err("it worked".to_owned()),
                Err(_) => Err("it took too long".to_owned()),
            }
        }
        fn done(&self, _: &PluginName, _: SupplyResult) {}
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fetched_goes_on_while_something_else_is_brought() {
        let supply: Arc<dyn PluginSupply> = Arc::new(Hurried);
        let deadline = Instant::now() + Duration::from_secs(100);
        let names = ["a", "b", "c"].map(|name| PluginName::parse(name).unwrap());
        let fetches = names.map(|name| fetch(Arc::clone(&supply), name, deadline));
        let mut fetched = stream::iter(fetches).buffered(3);
        while let Some((name, delivery)) = fetched.next().await {
            assert_eq!(delivery.unwrap_err(), "it worked", "{name}");
            // A slow daemon
            sleep(Duration::from_secs(30)).await;
        }
    }
}
