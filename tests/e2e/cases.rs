//! Every case, by the lane in which it runs.

mod admission;
mod deleting;
mod documents;
mod faults;
mod install;
mod killed;
mod retune;
mod rolling;
mod scaling;
mod settled;
mod speed;
mod spread;

use std::{future::Future, pin::Pin, sync::Arc};

use crate::fleet::Fleet;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One case.
pub struct Case {
    /// `module::function`.
    pub name: &'static str,
    /// Runs it on a settled release.
    pub run: Box<dyn FnOnce(Arc<Fleet>) -> Running + Send>,
}

/// Cases that share one release, in order.
pub struct Lane {
    /// Ends the name of its namespace.
    pub name: &'static str,
    /// Namespaces that its operator watches besides its own.
    pub namespaces: &'static [&'static str],
    /// Seconds for which terminating pods still accept connections, if not as long as users have.
    pub stop_notice: Option<u32>,
    /// Seconds between two looks of the operator at a settled resource, if not as many as users have.
    pub resync: Option<u32>,
    /// Its cases.
    pub cases: Vec<Case>,
}

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: Box::new(|fleet: Arc<Fleet>| Box::pin(async move { $module::$name(&fleet).await }) as Running),
        }),*]
    };
}

/// The lanes, which run at the same time. The first one uses the release that `cargo xtask demo` leaves.
pub fn lanes() -> Vec<Lane> {
    vec![
        Lane {
            name: "demo",
            namespaces: &[],
            stop_notice: None,
            resync: None,
            cases: cases![
                install::a_request_goes_through_web_to_budget_under_one_trace,
                install::every_pod_keeps_to_the_restricted_standard_and_reads_only_its_policy,
                install::the_chart_is_well_formed_and_renders_what_it_did,
                install::people_see_what_they_ask_for,
                admission::the_api_server_and_the_rules_in_process_agree,
                admission::invalid_edits_are_refused_with_a_sentence,
                admission::an_object_of_somebody_else_is_not_taken_over,
                admission::what_a_quota_refuses_is_told_and_done_once_it_may,
                retune::edits_under_load_restart_nothing_and_lose_nothing,
                retune::an_edit_is_in_force_everywhere_when_the_status_says_so,
                retune::a_shared_limit_is_admitted_once_by_all_replicas,
            ],
        },
        Lane {
            name: "traffic",
            namespaces: &[],
            stop_notice: None,
            resync: None,
            cases: cases![
                spread::every_ready_pod_of_a_peer_gets_its_share_and_one_that_leaves_loses_no_request,
                rolling::a_rolling_update_of_all_services_loses_no_request,
            ],
        },
        Lane {
            name: "upgrade",
            namespaces: &[],
            stop_notice: None,
            resync: None,
            cases: cases![rolling::an_upgrade_of_the_release_loses_no_request],
        },
        Lane {
            name: "repairs",
            namespaces: &[speed::NAMESPACE],
            stop_notice: Some(10),
            resync: Some(10),
            cases: cases![
                settled::nothing_is_written_once_everything_is_as_it_should_be,
                settled::drift_is_repaired_and_told_and_what_others_added_stays,
                faults::killed_pods_and_operators_leave_everything_as_it_was,
                killed::an_operator_killed_around_any_write_leaves_what_a_fresh_install_gives,
                deleting::what_a_resource_brought_goes_with_it,
                scaling::an_autoscaler_moves_replicas_and_is_left_alone,
                speed::many_resources_reach_their_state,
            ],
        },
    ]
}

/// The cases that act on the whole cluster. They run alone, on the release of the demo, whose operator
/// watches every namespace again.
pub fn cluster_wide() -> Vec<Case> {
    cases![
        install::one_namespace_is_enough,
        admission::a_malformed_object_that_is_stored_stalls_nobody_else,
        install::a_definition_is_upgraded_under_running_resources,
        install::monitors_are_made_where_the_cluster_knows_them,
        faults::a_pod_that_cannot_be_asked_is_never_counted,
        faults::edits_are_in_force_while_the_kubelet_stands_still,
        faults::pods_keep_their_policy_while_the_api_server_is_gone,
        documents::people_can_follow_the_documents,
        deleting::uninstalling_leaves_only_definitions_and_resources,
    ]
}
