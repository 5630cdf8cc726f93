//! Reconciliation of one resource, from its spec to its status, stage by stage.
//!
//! Every stage reads from the watches, so a reconcile that finds nothing to do makes no call to the API
//! server. The policy is published first and the replicas are probed in the same reconcile, because edits
//! of the policy are the ones that people wait for. A reconcile waits for replicas only briefly; while they
//! do not agree it is repeated, less and less often, and a new edit is published in between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{Resource, ResourceExt, api::DynamicObject, runtime::controller::Action};
use phase6_crds::{Phase6Service, Phase6ServiceStatus};
use phase6_policy::PolicyDocument;
use serde_json::Value;

use crate::{
    apply::{Applied, apply},
    backoff::Backoff,
    build::{self, Kind},
    cluster_view::ClusterView,
    context::Context,
    error::{ReconcileError, with_cause},
    events::ResourceEvent,
    fetch::{ResourceState, fetch},
    pending_writes::PendingWrites,
    probe::ProbedReplica,
    publish::{Published, publish},
    replicas::{self, Replica},
    report::{self, Observation, Stall, is_policy_applied},
    resource::{ResourceVersion, resource_api},
    validate::{InvalidSpec, Validator},
    writer::Writer,
};

/// Time from publishing during which a reconcile itself waits for the replicas.
const PROBE_WAIT: Duration = Duration::from_millis(150);
/// Shortest pause between probes of a replica.
const MIN_PROBE_DELAY: Duration = Duration::from_millis(5);
/// Longest pause between probes of a replica that does not enforce the newest policy yet.
const MAX_PROBE_DELAY: Duration = Duration::from_secs(5);

/// Reconciler of the resources of one scope.
pub struct Reconciler {
    context: Arc<Context>,
    view: ClusterView,
    pending: PendingWrites,
    validator: Validator,
    backoff: Backoff,
}

impl Reconciler {
    /// Creates a reconciler that reads from `view`.
    pub fn new(context: Arc<Context>, view: ClusterView) -> Self {
        Self {
            context,
            pending: PendingWrites::new(view.resources()),
            validator: Validator::new(view.resources()),
            backoff: Backoff::new(view.resources()),
            view,
        }
    }

    /// Reconciles a resource once and returns when to do so again.
    ///
    /// # Errors
    ///
    /// Fails if the API server refused a call or could not be reached; [`Self::on_error`] schedules the
    /// retry.
    pub async fn reconcile(self: Arc<Self>, object: Arc<DynamicObject>) -> Result<Action, ReconcileError> {
        self.view.wait_until_synced().await;
        self.context.mark_ready();
        if !self.context.leadership.is_held() {
            // A new leader reconciles every resource.
            return Ok(Action::await_change());
        }
        let metrics = &self.context.metrics;
        metrics.resources.set(self.view.resources().len() as i64);
        metrics.active.inc();
        let started = Instant::now();
        let result = self.run_stages(&object).await;
        metrics.active.dec();
        metrics.record_reconcile(result.as_ref().map(|_| ()), started.elapsed());
        if result.is_ok() {
            self.backoff.reset(&object);
        }
        result
    }

    /// Logs the error of a reconcile and returns when to retry.
    pub fn on_error(&self, object: &DynamicObject, error: &ReconcileError) -> Action {
        let retry = self.backoff.record_failure(object);
        tracing::warn!(
            namespace = object.namespace(),
            name = object.name_any(),
            failures = retry.failures,
            error = with_cause(error),
            "reconcile failed"
        );
        Action::requeue(retry.delay)
    }

    async fn run_stages(&self, object: &DynamicObject) -> Result<Action, ReconcileError> {
        if object.metadata.deletion_timestamp.is_some() {
            // The owned objects are deleted through their owner references.
            return Ok(Action::await_change());
        }
        let state = fetch(&self.view, &self.pending, object);
        let writer = Writer::new(&self.context, &state.id);
        let resource = match self.validator.validate(object) {
            Ok(resource) => resource,
            Err(invalid) => return self.report_invalid(writer, &state, &invalid).await,
        };
        let ready = replicas::ready(&state.pods, resource.spec.service.service().port);
        let published = match publish(writer, &self.pending, &resource, &state, ready.len()).await {
            Ok(published) => published,
            Err(error) => {
                self.report_unpublished(writer, &state, &error).await?;
                return Err(error);
            }
        };
        let objects = build::build(&resource, &self.context.build_options);
        let replicas = build::replicas(&resource);
        let applied = apply(writer, &self.view, &objects, replicas.as_ref(), state.was_reported()).await;
        // A failed apply does not hide how far the published policy has come.
        let probed = self.probe(&resource, &state, &published, ready).await;
        self.report(writer, &resource, &state, published, applied, &probed).await
    }

    /// Probes the ready replicas until they agree, but no longer than [`PROBE_WAIT`] after publishing.
    async fn probe(
        &self,
        resource: &Phase6Service,
        state: &ResourceState<'_>,
        published: &Published,
        mut ready: Vec<Replica>,
    ) -> Vec<ProbedReplica> {
        loop {
            let probed = self.context.probe.probe(&ready).await;
            let elapsed = published.at.map_or(Duration::MAX, |at| at.elapsed());
            if all_enforce(&probed, &published.document) || elapsed > PROBE_WAIT {
                return probed;
            }
            tokio::time::sleep(probe_delay(elapsed)).await;
            let pods = self.view.pods(&state.id.namespace, &state.id.name);
            ready = replicas::ready(&pods, resource.spec.service.service().port);
        }
    }

    /// Reports the outcome of all stages, and returns when to reconcile again.
    async fn report(
        &self,
        writer: Writer<'_>,
        resource: &Phase6Service,
        state: &ResourceState<'_>,
        published: Published,
        applied: Applied,
        probed: &[ProbedReplica],
    ) -> Result<Action, ReconcileError> {
        let shown = self.view.object(Kind::Deployment, &state.id.namespace, &state.id.name);
        let deployment = newest(shown, applied.deployment);
        let stall = applied.error.as_ref().and_then(stall);
        let previous = state.status.as_ref();
        let status = report::status(&Observation {
            resource,
            previous,
            document: &published.document,
            deployment: deployment.as_ref(),
            replicas: probed,
            pods: replicas::count_active(&state.pods),
            stall: stall.as_ref(),
            shared_state: self.context.build_options.redis.is_some(),
            now: Timestamp::now(),
        });
        let mut events: Vec<_> = published.event.into_iter().chain(applied.events).collect();
        if let Some(event) = ResourceEvent::policy_applied(previous, &status) {
            let propagation_ms = status.policy.as_ref().and_then(|policy| policy.propagation_ms);
            self.context.metrics.propagation.observe(propagation_ms.unwrap_or_default() as f64 / 1e3);
            events.push(event);
        }
        let is_applied = is_policy_applied(&status);
        self.write_status(writer, state, status).await?;
        self.context.events.publish(&resource.object_ref(&()), &events).await;
        if let Some(error) = applied.error {
            return Err(error);
        }
        let delay = if is_applied || probed.is_empty() {
            self.context.resync
        } else {
            published.at.map_or(MAX_PROBE_DELAY, |at| probe_delay(at.elapsed()))
        };
        Ok(Action::requeue(delay))
    }

    /// Reports a resource that breaks its rules, and leaves its objects as they are.
    async fn report_invalid(
        &self,
        writer: Writer<'_>,
        state: &ResourceState<'_>,
        invalid: &InvalidSpec,
    ) -> Result<Action, ReconcileError> {
        let problems = invalid.to_string();
        let id = &state.id;
        tracing::warn!(namespace = id.namespace, name = id.name, problems, "resource is not valid");
        let generation = state.generation();
        let previous = state.status.as_ref();
        let status = report::invalid_status(previous, generation, &problems, Timestamp::now());
        let is_new = previous != Some(&status);
        match self.write_status(writer, state, status).await {
            // The API server accepts no status for an object whose types do not match its schema. The event
            // below reports the problem instead.
            Err(error) if !error.is_invalid() => return Err(error),
            _ => {}
        }
        if is_new {
            let event = ResourceEvent::invalid_spec(generation.unwrap_or_default(), &problems);
            self.context.events.publish(&state.object.object_ref(&resource_api()), &[event]).await;
        }
        Ok(Action::await_change())
    }

    /// Reports that the policy could not be published, unless a retry alone may succeed.
    async fn report_unpublished(
        &self,
        writer: Writer<'_>,
        state: &ResourceState<'_>,
        error: &ReconcileError,
    ) -> Result<(), ReconcileError> {
        let Some(stall) = stall(error) else { return Ok(()) };
        let previous = state.status.as_ref();
        let status = report::unpublished_status(previous, state.generation(), &stall, Timestamp::now());
        self.write_status(writer, state, status).await
    }

    /// Writes a status that differs from the newest known one.
    async fn write_status(
        &self,
        writer: Writer<'_>,
        state: &ResourceState<'_>,
        status: Phase6ServiceStatus,
    ) -> Result<(), ReconcileError> {
        if state.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let version = writer.write_status(&status).await?;
        self.pending.record_status(state.object, status, version);
        Ok(())
    }
}

fn stall(error: &ReconcileError) -> Option<Stall> {
    error.stall_reason().map(|reason| Stall { reason, message: with_cause(error) })
}

fn all_enforce(probed: &[ProbedReplica], document: &PolicyDocument) -> bool {
    probed.iter().all(|replica| report::enforces(&replica.result, document))
}

/// Returns the newer of the object that the watch shows and the one that was just written. An outdated
/// Deployment would look rolled out before its rollout begins.
fn newest(shown: Option<Value>, written: Option<Value>) -> Option<Value> {
    match (shown, written) {
        (Some(shown), Some(written))
            if ResourceVersion::of_json(&written) > ResourceVersion::of_json(&shown) =>
        {
            Some(written)
        }
        (None, written) => written,
        (shown, _) => shown,
    }
}

/// Returns the pause before the next probe: a fifth of the time since publishing, within bounds.
fn probe_delay(since_published: Duration) -> Duration {
    (since_published / 5).clamp(MIN_PROBE_DELAY, MAX_PROBE_DELAY)
}

#[cfg(test)]
mod tests;
