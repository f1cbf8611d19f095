//! What a start is busy with, told while it lasts.

use std::sync::Arc;

/// What takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// An image is pulled.
    Pull,
    /// An image is built.
    Build,
    /// Files are copied.
    Copy,
    /// Plugins are fetched.
    Plugins,
}

impl Phase {
    /// The name used in events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Build => "build",
            Self::Copy => "copy",
            Self::Plugins => "plugins",
        }
    }
}

/// One sign of life. May name images and layers, never secrets, paths or hosts with
/// credentials: it reaches clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// One line about it.
    pub detail: String,
    /// How much is done, 0 to 100, where that is known.
    pub percent: Option<u8>,
}

type Listener = dyn Fn(Step) + Send + Sync;

/// Where a backend tells how it gets on. Cheap to clone. Telling never blocks and
/// never fails; a listener may drop what comes too often.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Listener>>);

impl Progress {
    /// Nobody listens.
    pub fn none() -> Self {
        Self(None)
    }

    /// Calls `listener` with every step, on the task of whoever works. It must not
    /// block.
    pub fn to(listener: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Tells one step.
    pub fn tell(&self, phase: Phase, detail: impl Into<String>, percent: Option<u8>) {
        if let Some(listener) = &self.0 {
            listener(Step {
                phase,
                detail: detail.into(),
                percent,
            });
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Progress").field(&self.0.is_some()).finish()
    }
}
