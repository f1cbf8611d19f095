//! What the web canvas keeps on the server: where people left it.

pub(crate) mod routes;
mod store;

use molecule_hooks::Clock;

use crate::error::{Error, Result};
use crate::store::{Db, timestamp};

/// Which part of the canvas is looked at, and how closely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Viewport {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) zoom: f64,
}

impl Viewport {
    /// Before anybody moved it.
    const INITIAL: Self = Self {
        x: 0.0,
        y: 0.0,
        zoom: 1.0,
    };
}

/// A change of the viewport; what is missing stays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ViewportChange {
    pub(crate) x: Option<f64>,
    pub(crate) y: Option<f64>,
    pub(crate) zoom: Option<f64>,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Canvas {
    db: Db,
    clock: Clock,
}

impl Canvas {
    pub(crate) fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// Where people left the canvas. A viewport that cannot be read is not worth an
    /// error to the wire: it is the initial one.
    pub(crate) async fn viewport(&self) -> Viewport {
        match store::viewport(&self.db).await {
            Ok(viewport) => viewport.unwrap_or(Viewport::INITIAL),
            Err(error) => {
                tracing::warn!(%error, "the viewport could not be read");
                Viewport::INITIAL
            }
        }
    }

    /// Keeps a change.
    ///
    /// # Errors
    /// 400 `invalid viewport data` for what is no place to look at; 500 `failed to
    /// save viewport`; 503.
    pub(crate) async fn move_viewport(&self, change: ViewportChange) -> Result<()> {
        let is_number = |value: Option<f64>| value.is_none_or(f64::is_finite);
        let can_zoom = is_number(change.zoom) && change.zoom.is_none_or(|zoom| zoom > 0.0);
        if !(is_number(change.x) && is_number(change.y) && can_zoom) {
            return Err(Error::invalid("invalid viewport data"));
        }
        let saved = store::save(&self.db, &change, timestamp(&self.clock)).await;
        saved.map_err(|error| Error::from(error).says("failed to save viewport"))
    }
}
