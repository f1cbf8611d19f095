//! How far a pull is, from what the daemon says about its layers.

use std::collections::HashMap;

use bollard::models::CreateImageInfo;

use crate::backend::{Phase, Step};

/// More layers than an image can have.
const MAX_LAYERS: usize = 512;
/// How much of the work on a layer is its download; unpacking is the rest.
const DOWNLOAD: f64 = 0.8;

/// The layers of an image that is being pulled.
#[derive(Default)]
pub(super) struct Layers {
    /// Per layer how much is done, 0 to 1.
    layers: HashMap<String, f64>,
    /// What was told last: it never becomes less.
    percent: u8,
}

impl Layers {
    /// Takes notice of one line of the daemon.
    pub(super) fn note(&mut self, line: &CreateImageInfo) {
        let (Some(layer), Some(status)) = (&line.id, &line.status) else {
            return;
        };
        let part = || {
            let detail = line.progress_detail.as_ref();
            let current = detail.and_then(|detail| detail.current).unwrap_or_default();
            let total = detail.and_then(|detail| detail.total).unwrap_or_default();
            if total > 0 {
                (current as f64 / total as f64).clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        let done = match status.as_str() {
            "Pulling fs layer" | "Waiting" => 0.0,
            "Downloading" => DOWNLOAD * part(),
            "Verifying Checksum" | "Download complete" => DOWNLOAD,
            "Extracting" => DOWNLOAD + (1.0 - DOWNLOAD) * part(),
            "Pull complete" | "Already exists" => 1.0,
            // Something about the image, or about a layer that was announced already.
            _ => return,
        };
        if self.layers.len() < MAX_LAYERS || self.layers.contains_key(layer) {
            self.layers.insert(layer.clone(), done);
        }
    }

    /// Where the pull is.
    pub(super) fn step(&mut self) -> Step {
        let all = self.layers.len();
        if all == 0 {
            return Step {
                phase: Phase::Pull,
                detail: "pulling image".to_owned(),
                percent: None,
            };
        }
        let complete = self.layers.values().filter(|done| **done >= 1.0).count();
        let sum: f64 = self.layers.values().sum();
        // The conversion cuts off what it cannot hold.
        let percent = (100.0 * sum / all as f64) as u8;
        self.percent = self.percent.max(percent.min(100));
        Step {
            phase: Phase::Pull,
            detail: format!("pulled {complete} of {all} layers"),
            percent: Some(self.percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;
    use proptest::prelude::*;

    use super::*;

    fn line(id: &str, status: &str, progress: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: progress.map(|(current, total)| ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..CreateImageInfo::default()
        }
    }

    fn shown(layers: &mut Layers) -> (String, Option<u8>) {
        let step = layers.step();
        assert_eq!(step.phase, Phase::Pull);
        (step.detail, step.percent)
    }

    #[test]
    fn the_layers_of_an_image_add_up() {
        let mut layers = Layers::default();
        layers.note(&line("latest", "Pulling from acme/agent", None));
        assert_eq!(shown(&mut layers), ("pulling image".to_owned(), None));
        for id in ["a", "b"] {
            layers.note(&line(id, "Pulling fs layer", None));
        }
        assert_eq!(
            shown(&mut layers),
            ("pulled 0 of 2 layers".to_owned(), Some(0))
        );
        layers.note(&line("a", "Downloading", Some((50, 100))));
        assert_eq!(shown(&mut layers).1, Some(20));
        layers.note(&line("a", "Already exists", None));
        layers.note(&line("b", "Extracting", Some((1, 2))));
        assert_eq!(
            shown(&mut layers),
            ("pulled 1 of 2 layers".to_owned(), Some(95))
        );
        // A download that begins again takes nothing back
        layers.note(&line("b", "Pulling fs layer", None));
        assert_eq!(shown(&mut layers).1, Some(95));
        layers.note(&line("b", "Pull complete", None));
        assert_eq!(
            shown(&mut layers),
            ("pulled 2 of 2 layers".to_owned(), Some(100))
        );
    }

    proptest! {
        #[test]
        fn nothing_a_daemon_says_breaks_the_sum(lines in prop::collection::vec(
            ("[ab]{0,2}", prop_oneof![
                Just("Pulling fs layer"), Just("Downloading"), Just("Extracting"),
                Just("Pull complete"), Just("Retrying in 5 seconds"), Just(""),
            ], any::<Option<(i64, i64)>>()), 0..40,
        )) {
            let mut layers = Layers::default();
            let mut last = 0;
            for (id, status, progress) in lines {
                layers.note(&line(&id, status, progress));
                let percent = layers.step().percent.unwrap_or_default();
                prop_assert!((last..=100).contains(&percent));
                last = percent;
            }
        }
    }

    #[test]
    fn a_daemon_that_invents_layers_without_end_costs_nothing() {
        let mut layers = Layers::default();
        for number in 0..5000 {
            layers.note(&line(&number.to_string(), "Pulling fs layer", None));
        }
        assert_eq!(layers.layers.len(), MAX_LAYERS);
    }
}
