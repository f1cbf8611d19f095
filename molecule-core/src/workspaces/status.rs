//! The status machine: what may become of a workspace, as one pure function.
//!
//! Statements that change a status name the same statuses in their `WHERE`: the
//! row may have changed since it was read.

use super::model::Status;

/// Error rate from which an online workspace is degraded.
const DEGRADED_FROM: f64 = 0.5;
/// Error rate below which a degraded one is online again.
const HEALTHY_BELOW: f64 = 0.1;

/// The parts of a heartbeat that matter for the status.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Vitals {
    /// Share of failed tasks, 0 to 1.
    pub(crate) error_rate: f64,
    /// The runtime says that it is stuck.
    pub(crate) wedged: bool,
    /// `runtime_state` was present and not empty.
    pub(crate) has_runtime_state: bool,
    /// The agent declared `status_mgmt`: it judges its own error rate.
    pub(crate) native_status: bool,
}

/// What happens to a workspace.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "some statements list their statuses; the tests hold them against this"
    )
)]
pub(crate) enum Trigger {
    /// Its agent reported.
    Heartbeat(Vitals),
    /// Its agent registered.
    Register,
    /// Starting it failed.
    ProvisionFailed,
    /// It was started and its agent never came.
    TimedOut,
    /// A control plane says that its machine did not boot.
    BootstrapFailed,
    /// Its compute is gone, or its agent is silent. Nobody can restart an external
    /// agent from here: that one is waited for.
    Offline {
        /// The agent runs elsewhere.
        external: bool,
    },
    /// Somebody pauses it.
    Pause,
    /// Somebody ends the pause.
    Resume {
        /// The agent runs elsewhere: there is nothing to start.
        external: bool,
    },
    /// Somebody restarts it.
    Restart,
    /// It restarts because something it must see changed, or because it died.
    AutoRestart,
    /// It goes to sleep: its compute is being stopped.
    Hibernate,
    /// It sleeps: its compute is stopped.
    Hibernated,
    /// Its compute could not be stopped; it is what it was before.
    HibernateFailed {
        /// Its status when it was to go to sleep.
        was: Status,
    },
    /// Somebody needs it again.
    Wake,
    /// Somebody deletes it.
    Remove,
}

/// The status after `trigger`, or `None` when it changes nothing or is not
/// allowed. `Some` of the same status means that the trigger does its work again:
/// an agent registers anew, a provision starts over.
pub(crate) fn next(from: Status, trigger: Trigger) -> Option<Status> {
    use Status::{
        AwaitingAgent, Degraded, Failed, Hibernated, Hibernating, Offline, Online, Paused,
        Provisioning, Removed,
    };
    match (trigger, from) {
        // Removed is the end.
        (_, Removed) => None,
        (Trigger::Remove, _) => Some(Removed),

        (Trigger::Heartbeat(vitals), from) => after_heartbeat(from, vitals),
        // An agent must not undo a pause or a sleep by starting late.
        (
            Trigger::Register,
            Provisioning | Online | Offline | Degraded | Failed | AwaitingAgent,
        ) => Some(Online),

        (Trigger::ProvisionFailed | Trigger::TimedOut | Trigger::BootstrapFailed, Provisioning) => {
            Some(Failed)
        }

        (Trigger::Offline { external }, Online | Degraded) => match external {
            true => Some(AwaitingAgent),
            false => Some(Offline),
        },

        (Trigger::Pause, Paused) => None,
        (Trigger::Pause, _) => Some(Paused),
        (Trigger::Resume { external }, Paused) => match external {
            true => Some(AwaitingAgent),
            false => Some(Provisioning),
        },

        // A paused one is resumed instead. What falls asleep does so first, then
        // this is a wake.
        (
            Trigger::Restart,
            Provisioning | Online | Offline | Degraded | Failed | Hibernated | AwaitingAgent,
        ) => Some(Provisioning),
        // Nobody asked for this one, so it leaves alone what sleeps.
        (Trigger::AutoRestart, Provisioning | Online | Offline | Degraded | Failed) => {
            Some(Provisioning)
        }

        (Trigger::Hibernate, Online | Degraded) => Some(Hibernating),
        (Trigger::Hibernated, Hibernating) => Some(Hibernated),
        (Trigger::HibernateFailed { was }, Hibernating) => {
            matches!(was, Online | Degraded).then_some(was)
        }
        (Trigger::Wake, Hibernated) => Some(Provisioning),

        (
            Trigger::Register
            | Trigger::ProvisionFailed
            | Trigger::TimedOut
            | Trigger::BootstrapFailed
            | Trigger::Offline { .. }
            | Trigger::Resume { .. }
            | Trigger::Restart
            | Trigger::AutoRestart
            | Trigger::Hibernate
            | Trigger::Hibernated
            | Trigger::HibernateFailed { .. }
            | Trigger::Wake,
            _,
        ) => None,
    }
}

/// The statuses from which `trigger` leads anywhere, as `,online,degraded,`: for a
/// `WHERE $n LIKE '%,' || status || ',%'`, one text for both engines.
pub(crate) fn sources(trigger: Trigger) -> String {
    let mut text = String::from(",");
    for status in Status::ALL {
        if next(status, trigger).is_some() {
            text.push_str(status.as_str());
            text.push(',');
        }
    }
    text
}

/// The registry's rules, in order; the first that applies counts.
fn after_heartbeat(from: Status, vitals: Vitals) -> Option<Status> {
    let judged = !vitals.native_status;
    match from {
        Status::Online if vitals.wedged || (judged && vitals.error_rate >= DEGRADED_FROM) => {
            Some(Status::Degraded)
        }
        Status::Degraded
            if judged && vitals.error_rate < HEALTHY_BELOW && !vitals.has_runtime_state =>
        {
            Some(Status::Online)
        }
        Status::Offline | Status::Provisioning | Status::AwaitingAgent => Some(Status::Online),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Status::{
        AwaitingAgent, Degraded, Failed, Hibernated, Hibernating, Offline, Online, Paused,
        Provisioning, Removed,
    };

    fn vitals(error_rate: f64, wedged: bool, native_status: bool) -> Vitals {
        Vitals {
            error_rate,
            wedged,
            has_runtime_state: wedged,
            native_status,
        }
    }

    /// A trigger with the statuses it leads to, in the order of `Status::ALL`:
    /// provisioning, online, offline, degraded, failed, removed, paused,
    /// hibernated, hibernating, awaiting_agent.
    type Row = (Trigger, [Option<Status>; 10]);

    #[rustfmt::skip]
    fn table() -> Vec<Row> {
        use Trigger as T;
        let on = Some(Online);
        let off = Some(Offline);
        let deg = Some(Degraded);
        let pro = Some(Provisioning);
        let fail = Some(Failed);
        let gone = Some(Removed);
        let wait = Some(AwaitingAgent);
        let paus = Some(Paused);
        let going = Some(Hibernating);
        let slept = Some(Hibernated);
        let none = None;
        vec![
            //                                             prov  onl    offl  degr   fail  rem   paus  hib   hibing await
            (T::Heartbeat(vitals(0.0, false, false)),     [on,   none,  on,   on,    none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.09, false, false)),    [on,   none,  on,   on,    none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.1, false, false)),     [on,   none,  on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.49, false, false)),    [on,   none,  on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.5, false, false)),     [on,   deg,   on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(1.0, false, true)),      [on,   none,  on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.0, false, true)),      [on,   none,  on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.0, true, false)),      [on,   deg,   on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(0.0, true, true)),       [on,   deg,   on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(1.0, true, false)),      [on,   deg,   on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(Vitals { has_runtime_state: true, ..vitals(0.0, false, false) }),
                                                          [on,   none,  on,   none,  none, none, none, none, none,  on]),
            (T::Heartbeat(vitals(f64::NAN, false, false)), [on,  none,  on,   none,  none, none, none, none, none,  on]),
            (T::Register,                                 [on,   on,    on,   on,    on,   none, none, none, none,  on]),
            (T::ProvisionFailed,                          [fail, none,  none, none,  none, none, none, none, none,  none]),
            (T::TimedOut,                                 [fail, none,  none, none,  none, none, none, none, none,  none]),
            (T::BootstrapFailed,                          [fail, none,  none, none,  none, none, none, none, none,  none]),
            (T::Offline { external: false },              [none, off,   none, off,   none, none, none, none, none,  none]),
            (T::Offline { external: true },               [none, wait,  none, wait,  none, none, none, none, none,  none]),
            (T::Pause,                                    [paus, paus,  paus, paus,  paus, none, none, paus, paus,  paus]),
            (T::Resume { external: false },               [none, none,  none, none,  none, none, pro,  none, none,  none]),
            (T::Resume { external: true },                [none, none,  none, none,  none, none, wait, none, none,  none]),
            (T::Restart,                                  [pro,  pro,   pro,  pro,   pro,  none, none, pro,  none,  pro]),
            (T::AutoRestart,                              [pro,  pro,   pro,  pro,   pro,  none, none, none, none,  none]),
            (T::Hibernate,                                [none, going, none, going, none, none, none, none, none,  none]),
            (T::Hibernated,                               [none, none,  none, none,  none, none, none, none, slept, none]),
            (T::HibernateFailed { was: Online },          [none, none,  none, none,  none, none, none, none, on,    none]),
            (T::HibernateFailed { was: Degraded },        [none, none,  none, none,  none, none, none, none, deg,   none]),
            (T::HibernateFailed { was: Paused },          [none, none,  none, none,  none, none, none, none, none,  none]),
            (T::Wake,                                     [none, none,  none, none,  none, none, none, pro,  none,  none]),
            (T::Remove,                                   [gone, gone,  gone, gone,  gone, none, gone, gone, gone,  gone]),
        ]
    }

    #[test]
    fn every_status_and_every_trigger_is_in_the_table() {
        for (trigger, expected) in table() {
            for (from, to) in Status::ALL.into_iter().zip(expected) {
                assert_eq!(next(from, trigger), to, "{from} {trigger:?}");
            }
        }
    }

    #[test]
    fn nothing_leaves_removed_and_only_people_leave_paused() {
        for (trigger, _) in table() {
            assert_eq!(next(Removed, trigger), None, "{trigger:?}");
            let deliberate = matches!(trigger, Trigger::Resume { .. } | Trigger::Remove);
            assert_eq!(next(Paused, trigger).is_some(), deliberate, "{trigger:?}");
        }
    }

    #[test]
    fn every_status_but_removed_can_be_reached_and_left() {
        for status in Status::ALL {
            let reached = table().iter().any(|(trigger, _)| {
                Status::ALL
                    .iter()
                    .any(|from| *from != status && next(*from, *trigger) == Some(status))
            });
            assert!(reached, "{status}");
            let left = table()
                .iter()
                .any(|(trigger, _)| next(status, *trigger).is_some_and(|to| to != status));
            assert_eq!(left, status != Removed, "{status}");
        }
    }
}
