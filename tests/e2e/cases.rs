//! Every case, by the lane in which it runs.

mod admission;
mod autoscaling;
mod balancing;
mod documents;
mod drift;
mod faults;
mod install;
mod operator_crashes;
mod removal;
mod retune;
mod rollouts;
mod throughput;

use std::{future::Future, pin::Pin, sync::Arc};

use crate::fleet::Fleet;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One case.
pub struct Case {
    /// `module::function`.
    pub name: &'static str,
    /// Runs the case on a settled release.
    pub run: Box<dyn FnOnce(Arc<Fleet>) -> Running + Send>,
}

/// Cases that share one release and run in order.
pub struct Lane {
    /// Last part of the name of its namespace.
    pub name: &'static str,
    /// Namespaces that its operator watches besides its own.
    pub namespaces: &'static [&'static str],
    /// Seconds for which terminating pods still accept connections; the chart's default if `None`.
    pub stop_notice: Option<u32>,
    /// Seconds between two reconciles of a settled resource; the chart's default if `None`.
    pub resync: Option<u32>,
    pub cases: Vec<Case>,
}

impl Lane {
    /// True for the lane that uses the release of `cargo xtask demo`.
    pub fn is_demo(&self) -> bool {
        self.name == "demo"
    }
}

/// True if the suite runs at its full counts: `cargo xtask prove`.
fn is_full() -> bool {
    std::env::var_os("PHASE6_E2E_FULL").is_some()
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
                install::a_request_through_the_gateway_to_budget_has_one_trace,
                install::every_pod_meets_the_restricted_standard_and_may_read_only_its_own_policy,
                install::the_chart_passes_lint_and_renders_as_committed,
                install::kubectl_get_explain_and_scale_work_on_resources,
                admission::the_api_server_and_the_validation_in_process_agree,
                admission::invalid_edits_are_rejected_with_an_explanation,
                admission::objects_of_other_owners_are_not_adopted,
                admission::an_object_that_a_quota_rejects_is_reported_and_created_once_allowed,
                retune::edits_under_load_restart_no_pod_and_lose_no_request,
                retune::policy_applied_is_true_only_once_every_pod_enforces_the_revision,
                retune::replicas_together_admit_a_shared_limit_once,
            ],
        },
        Lane {
            name: "traffic",
            namespaces: &[],
            stop_notice: None,
            resync: None,
            cases: cases![
                balancing::every_ready_pod_of_a_peer_gets_its_share_and_a_stopping_pod_loses_no_request,
                rollouts::a_rolling_update_of_all_services_loses_no_request,
            ],
        },
        Lane {
            name: "upgrade",
            namespaces: &[],
            stop_notice: None,
            resync: None,
            cases: cases![rollouts::an_upgrade_of_the_release_loses_no_request],
        },
        Lane {
            name: "repairs",
            namespaces: &[throughput::NAMESPACE],
            stop_notice: Some(10),
            resync: Some(10),
            cases: cases![
                drift::the_operator_writes_nothing_while_nothing_differs,
                drift::drift_is_repaired_and_reported_and_additions_of_others_are_kept,
                faults::resources_converge_after_pods_and_operators_are_killed,
                operator_crashes::an_operator_killed_around_any_write_converges_to_a_fresh_install,
                removal::deleting_a_resource_removes_all_of_its_objects,
                autoscaling::an_autoscaler_controls_replicas_without_interference,
                throughput::many_resources_reach_their_final_state,
            ],
        },
    ]
}

/// The cases that act on the whole cluster. They run alone, on the release of the demo, whose operator
/// watches every namespace again.
pub fn cluster_wide() -> Vec<Case> {
    cases![
        install::an_operator_can_be_limited_to_one_namespace,
        admission::a_malformed_object_in_storage_does_not_stall_other_resources,
        install::the_definition_can_be_upgraded_while_resources_run,
        install::service_monitors_are_created_where_their_definition_exists,
        faults::a_pod_that_does_not_respond_is_never_counted,
        faults::edits_take_effect_while_the_kubelet_is_stopped,
        faults::pods_keep_their_policy_while_the_api_server_is_down,
        documents::the_commands_of_the_documents_work,
        removal::uninstalling_leaves_only_definitions_and_resources,
    ]
}
