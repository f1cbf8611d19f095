//! What a heartbeat does to a status: one pure function.

use crate::workspaces::Status;

/// Error rate from which an online workspace is degraded.
const DEGRADED_FROM: f64 = 0.5;
/// Error rate below which a degraded one is online again.
const HEALTHY_BELOW: f64 = 0.1;

/// The parts of a heartbeat that matter for the status.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Vitals {
    pub(super) error_rate: f64,
    pub(super) wedged: bool,
    /// `runtime_state` was present and not empty.
    pub(super) has_runtime_state: bool,
    /// The agent declared `status_mgmt`: it judges its own error rate.
    pub(super) native_status: bool,
}

/// Why the status changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Wedged,
    ErrorRate,
    Healthy,
    CameBack,
}

/// The transition of the contract's table (§3.3), if there is one. Paused,
/// hibernated, failed and removed workspaces stay what they are.
pub(super) fn next(from: Status, vitals: Vitals) -> Option<(Status, Cause)> {
    match from {
        Status::Online if vitals.wedged => Some((Status::Degraded, Cause::Wedged)),
        Status::Online if !vitals.native_status && vitals.error_rate >= DEGRADED_FROM => {
            Some((Status::Degraded, Cause::ErrorRate))
        }
        Status::Degraded
            if !vitals.native_status
                && vitals.error_rate < HEALTHY_BELOW
                && !vitals.has_runtime_state =>
        {
            Some((Status::Online, Cause::Healthy))
        }
        Status::Offline | Status::Provisioning | Status::AwaitingAgent => {
            Some((Status::Online, Cause::CameBack))
        }
        _ => None,
    }
}

/// True when registering may bring a workspace of this status online: an agent
/// must not undo a pause or a hibernation.
pub(super) fn may_register(from: Status) -> bool {
    match from {
        Status::Provisioning
        | Status::Online
        | Status::Offline
        | Status::Degraded
        | Status::Failed
        | Status::AwaitingAgent => true,
        Status::Removed | Status::Paused | Status::Hibernated | Status::Hibernating => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_contract() {
        let vitals = |error_rate, wedged, native_status| Vitals {
            error_rate,
            wedged,
            has_runtime_state: wedged,
            native_status,
        };
        use Cause::{CameBack, ErrorRate, Healthy, Wedged};
        use Status::{AwaitingAgent, Degraded, Offline, Online, Provisioning};
        let table = [
            (Online, vitals(0.0, true, false), Some((Degraded, Wedged))),
            (Online, vitals(0.9, true, false), Some((Degraded, Wedged))),
            (Online, vitals(0.0, true, true), Some((Degraded, Wedged))),
            (
                Online,
                vitals(0.5, false, false),
                Some((Degraded, ErrorRate)),
            ),
            (Online, vitals(0.5, false, true), None),
            (Online, vitals(0.49, false, false), None),
            (
                Degraded,
                vitals(0.05, false, false),
                Some((Online, Healthy)),
            ),
            (Degraded, vitals(0.05, true, false), None),
            (Degraded, vitals(0.05, false, true), None),
            (Degraded, vitals(0.1, false, false), None),
            (Offline, vitals(1.0, false, false), Some((Online, CameBack))),
            (
                Provisioning,
                vitals(0.0, false, false),
                Some((Online, CameBack)),
            ),
            (
                AwaitingAgent,
                vitals(0.0, false, false),
                Some((Online, CameBack)),
            ),
        ];
        for (from, vitals, expected) in table {
            assert_eq!(next(from, vitals), expected, "{from} {vitals:?}");
        }
        for from in [
            Status::Failed,
            Status::Removed,
            Status::Paused,
            Status::Hibernated,
            Status::Hibernating,
        ] {
            assert_eq!(next(from, vitals(1.0, true, false)), None, "{from}");
        }
    }
}
