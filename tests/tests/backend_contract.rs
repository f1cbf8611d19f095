//! The contract of the workspace backends, checked on a real Docker daemon and
//! on real processes, and what is particular to each of them.
//!
//! Without a Docker daemon the Docker half fails and says how to start one;
//! `MOLECULE_TEST_SKIP_DOCKER=1` leaves it out.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot do its part fails the test"
)]

mod backend_support;

#[path = "backend_support/agent_cases.rs"]
mod agent_cases;
#[path = "backend_support/bad_daemons.rs"]
mod bad_daemons;
#[path = "faults/daemon_proxy.rs"]
mod daemon_proxy;
#[path = "backend_support/docker_cases.rs"]
mod docker_cases;
#[path = "backend_support/docker_changes.rs"]
mod docker_changes;
#[path = "backend_support/every_step.rs"]
mod every_step;
#[path = "backend_support/faults.rs"]
mod faults;
#[path = "backend_support/files_cases.rs"]
mod files_cases;
#[path = "backend_support/isolation_cases.rs"]
mod isolation_cases;
#[path = "backend_support/no_backend.rs"]
mod no_backend;
#[path = "backend_support/plugin_cases.rs"]
mod plugin_cases;
#[path = "backend_support/plugin_cases_docker.rs"]
mod plugin_cases_docker;
#[path = "backend_support/plugin_cases_faults.rs"]
mod plugin_cases_faults;
#[path = "backend_support/plugin_cases_seed.rs"]
mod plugin_cases_seed;
#[path = "backend_support/plugin_cases_swaps.rs"]
mod plugin_cases_swaps;
#[path = "backend_support/process_cases.rs"]
mod process_cases;
#[path = "backend_support/volume_cases.rs"]
mod volume_cases;

/// Makes a test of every scenario, for one backend.
macro_rules! contract {
    ($name:ident, $fixture:ty, [$($scenario:ident),+ $(,)?]) => {
        mod $name {
            use crate::backend_support::{fixture::Fixture, suite};
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    if let Some(fixture) = <$fixture as Fixture>::new().await {
                        suite::$scenario(&fixture).await;
                    }
                }
            )+
        }
    };
}

macro_rules! whole_contract {
    ($name:ident, $fixture:ty) => {
        contract!(
            $name,
            $fixture,
            [
                an_unknown_workspace_is_not_running,
                stopping_what_does_not_exist_succeeds,
                a_started_agent_is_reachable_until_it_is_stopped,
                compute_that_ended_is_stopped_and_not_missing,
                the_url_of_an_agent_is_known_while_it_runs,
                a_backend_in_trouble_calls_nobody_dead,
                files_are_in_place_when_the_agent_starts,
                the_platform_has_the_last_word_on_the_environment,
                a_start_that_fails_leaves_nothing_and_tells_no_secret,
                files_cannot_leave_the_config_folder,
                a_start_cancelled_at_any_time_leaves_nothing,
                a_start_nobody_waits_for_leaves_nothing,
                starting_again_replaces_compute_and_keeps_storage,
                a_start_that_keeps_files_keeps_them,
                a_restart_without_a_configuration_falls_back_or_fails,
                a_first_start_that_keeps_files_needs_something_to_start_with,
                config_files_are_read_if_they_are_plain_and_short,
                a_failed_restart_keeps_the_storage,
                storage_goes_only_when_nothing_uses_it,
                two_servers_on_one_machine_never_touch_each_other,
                workspaces_outlive_the_server,
                workspaces_start_side_by_side,
                an_agent_works_in_the_folder_it_was_given,
                a_healthy_backend_says_what_it_is,
            ]
        );
    };
}

whole_contract!(docker, crate::backend_support::docker::DockerFixture);
whole_contract!(process, crate::backend_support::process::ProcessFixture);
