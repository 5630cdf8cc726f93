//! Fetch, validate, build, apply, report: one resource, from what it asks for to what its status says.
//!
//! Everything is read from watches, so that a reconcile which finds nothing to do makes no call.
//! Only the policy is hurried: it is published before anything else is looked at, and the replicas are
//! asked at once. A reconcile never waits long for them; while they do not agree it comes back, more
//! and more slowly, and a new edit is published in between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt, api::DynamicObject, runtime::controller::Action};
use phase6_crds::{Phase6Service, Phase6ServiceStatus};
use phase6_manifest::check;
use phase6_policy::PolicyDocument;
use serde_json::{Value, json};

use crate::{
    apply::{Applier, Version},
    build::{self, Kind, build},
    difference::Step,
    error::Error,
    events::{News, is_applied, told_when_applied},
    memory::Memories,
    replicas::{self, Answer, Replica},
    report::{self, Observed},
    run::Shared,
    world::{World, resource_api},
};

/// A settled resource is looked at again after so long, for what no watch tells.
const AGAIN: Duration = Duration::from_mins(1);
/// For how long a reconcile itself waits for replicas after it published.
const AT_ONCE: Duration = Duration::from_millis(150);
/// Pauses between asking replicas: the first and the longest. In between, a fifth of the time that
/// has passed since publishing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));
/// Pauses after errors: the first and the longest.
const ERROR_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Reconciles the resources of one scope.
pub struct Reconciler {
    shared: Arc<Shared>,
    pub(crate) world: World,
    pub(crate) memories: Memories,
}

impl Reconciler {
    /// Reads from `world`.
    pub fn new(shared: Arc<Shared>, world: World) -> Self {
        Self { shared, memories: Memories::of(world.resources()), world }
    }

    /// Reconciles once.
    ///
    /// # Errors
    ///
    /// The API server refused something or could not be reached; [`Self::failed`] says when to try again.
    pub async fn reconcile(self: Arc<Self>, object: Arc<DynamicObject>) -> Result<Action, Error> {
        self.world.known().await;
        self.shared.warm();
        if !self.shared.leadership.is_held() {
            // Whoever begins to lead looks at everything.
            return Ok(Action::await_change());
        }
        let metrics = &self.shared.metrics;
        metrics.resources.set(self.world.resources().len() as i64);
        metrics.active.inc();
        let begun = Instant::now();
        let result = self.work(&object).await;
        metrics.active.dec();
        metrics.ended(result.as_ref().map(|_| ()), begun.elapsed());
        if result.is_ok() {
            self.memories.with(&object, |memory| memory.failures = 0);
        }
        result
    }

    /// When to try again after an error.
    pub fn failed(&self, object: &DynamicObject, error: &Error) -> Action {
        let failures = self.memories.with(object, |memory| {
            memory.failures = memory.failures.saturating_add(1);
            memory.failures
        });
        let name = object.name_any();
        tracing::warn!(namespace = object.namespace(), name, failures, %error, "not reconciled");
        let pause = ERROR_PAUSES.0.saturating_mul(1 << (failures - 1).min(16)).min(ERROR_PAUSES.1);
        // Many that failed together do not come back together.
        Action::requeue(pause.mul_f64(0.75 + 0.5 * fraction(object)))
    }

    async fn work(&self, object: &DynamicObject) -> Result<Action, Error> {
        if object.metadata.deletion_timestamp.is_some() {
            // What belongs to it goes by its owner references.
            return Ok(Action::await_change());
        }
        let resource = match self.validate(object) {
            Ok(resource) => resource,
            Err(complaint) => return self.refuse(object, &complaint).await,
        };
        let namespace = resource.namespace().unwrap_or_default();
        let (name, uid) = (resource.name_any(), resource.uid().unwrap_or_default());
        let applier = self.applier(&namespace, (&name, &uid));
        self.bring_about(&resource, object, &applier).await
    }

    async fn bring_about(
        &self,
        resource: &Phase6Service,
        object: &DynamicObject,
        applier: &Applier<'_>,
    ) -> Result<Action, Error> {
        let mut news = Vec::new();
        let pods = self.world.pods(applier.namespace, applier.owner.0);
        let ready = replicas::ready(pods.iter().map(AsRef::as_ref), resource.spec.service.service().port);
        let previous = self.memories.newest_status(object, resource.status.clone());
        let published =
            self.publish(resource, object, previous.as_ref(), ready.len(), applier, &mut news).await;
        let (document, since) = match published {
            Ok(published) => published,
            Err(error) => {
                if let Some(reason) = error.refusal() {
                    let generation = resource.metadata.generation;
                    let told = (reason, &*error.to_string());
                    let status = report::unpublished(previous.as_ref(), generation, told, Timestamp::now());
                    self.report(applier, object, previous.as_ref(), status).await?;
                }
                return Err(error);
            }
        };
        let mut written = None;
        let brought = self.bring_objects(resource, previous.as_ref(), applier, &mut news, &mut written).await;
        // The policy is out, whatever became of the rest: what replicas say of it is told.
        let sentence = brought.as_ref().err().map(ToString::to_string);
        let reason = brought.as_ref().err().and_then(Error::refusal);
        let (ready, answers) = self.ask(resource, applier, &document, ready, since).await;
        let shown = self.world.object(Kind::Deployment, applier.namespace, applier.owner.0);
        let deployment = newer(shown, written);
        let mut seen = resource.clone();
        seen.status.clone_from(&previous);
        let status = report::status(&Observed {
            resource: &seen,
            document: &document,
            deployment: deployment.as_ref(),
            replicas: &ready,
            answers: &answers,
            pods: pods.iter().filter(|pod| is_counted(pod)).count(),
            shared: self.shared.context.redis.is_some(),
            trouble: reason.zip(sentence.as_deref()),
            now: Timestamp::now(),
        });
        let applied = is_applied(&status);
        if let Some(item) = told_when_applied(previous.as_ref(), &status) {
            let took = status.policy.as_ref().and_then(|policy| policy.propagation_ms);
            self.shared.metrics.propagation.observe(took.unwrap_or_default() as f64 / 1e3);
            news.push(item);
        }
        self.report(applier, object, previous.as_ref(), status).await?;
        self.shared.events.tell(&resource.object_ref(&()), &news).await;
        brought?;
        Ok(match since {
            Some(since) if !applied && !ready.is_empty() => Action::requeue(pause(since.elapsed())),
            None if !applied && !ready.is_empty() => Action::requeue(PAUSES.1),
            _ => Action::requeue(AGAIN),
        })
    }

    /// Applies everything else. The Deployment is told as it was written last, if it was.
    async fn bring_objects(
        &self,
        resource: &Phase6Service,
        status: Option<&Phase6ServiceStatus>,
        applier: &Applier<'_>,
        news: &mut Vec<News>,
        written: &mut Option<Value>,
    ) -> Result<(), Error> {
        let wanted = build(resource, &self.shared.context);
        // An autoscaler that goes must be gone before a number is set.
        for (kind, name) in applier.prune(&wanted).await? {
            let kind = kind.api().kind;
            news.push(News {
                warning: false,
                reason: "Removed",
                action: format!("Remove{kind}"),
                note: format!("{kind} {name} is no longer wanted"),
            });
        }
        let settled = status.and_then(|status| status.observed_generation) == resource.metadata.generation;
        for object in &wanted {
            let (step, now) = applier.bring(object).await?;
            if object.kind == Kind::Deployment {
                *written = now;
            }
            let kind = object.kind.api().kind;
            let name = &object.name;
            let note = match step {
                Step::Repair(path) => {
                    format!("{kind} {name} was changed by somebody else at {path}; put back")
                }
                Step::Create if settled => format!("{kind} {name} was gone; made again"),
                _ => continue,
            };
            news.push(News { warning: true, reason: "Repaired", action: format!("Repair{kind}"), note });
        }
        if let Some(replicas) = build::replicas(resource) {
            *written = applier.scale(&replicas).await?.or(written.take());
        }
        Ok(())
    }

    /// Asks the ready replicas, and while this is worth while again, those that are ready by then.
    async fn ask(
        &self,
        resource: &Phase6Service,
        applier: &Applier<'_>,
        document: &PolicyDocument,
        mut ready: Vec<Replica>,
        since: Option<Instant>,
    ) -> (Vec<Replica>, Vec<Answer>) {
        let asker = &self.shared.asker;
        loop {
            let answers = asker.ask(&ready).await;
            let elapsed = since.map_or(Duration::MAX, |since| since.elapsed());
            let agreed = answers.iter().all(|answer| report::enforces(answer, document));
            if agreed || elapsed > AT_ONCE {
                return (ready, answers);
            }
            tokio::time::sleep(pause(elapsed)).await;
            let pods = self.world.pods(applier.namespace, applier.owner.0);
            ready = replicas::ready(pods.iter().map(AsRef::as_ref), resource.spec.service.service().port);
        }
    }

    /// The resource, if it keeps the rules; else what it breaks.
    fn validate(&self, object: &DynamicObject) -> Result<Phase6Service, String> {
        let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
        let version = (object.uid().unwrap_or_default(), object.metadata.generation.unwrap_or_default());
        if self.memories.with(object, |memory| memory.valid.as_ref() != Some(&version)) {
            let problems = check(&json!({
                "apiVersion": value["apiVersion"],
                "kind": value["kind"],
                "metadata": { "name": object.name_any() },
                "spec": value["spec"],
            }));
            if !problems.is_empty() {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                return Err(lines.join("; "));
            }
        }
        let resource = serde_json::from_value(value).map_err(|error| format!("cannot be read: {error}"))?;
        self.memories.with(object, |memory| memory.valid = Some(version));
        Ok(resource)
    }

    /// Says what is wrong with a resource, and leaves everything as it is.
    async fn refuse(&self, object: &DynamicObject, complaint: &str) -> Result<Action, Error> {
        let namespace = object.namespace().unwrap_or_default();
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        tracing::warn!(namespace, name, complaint, "the resource is not valid");
        // A status that cannot be read is written anew.
        let status: Option<Phase6ServiceStatus> = serde_json::from_value(object.data["status"].clone()).ok();
        let previous = self.memories.newest_status(object, status);
        let new = report::invalid(previous.as_ref(), object.metadata.generation, complaint, Timestamp::now());
        let generation = object.metadata.generation.unwrap_or_default();
        let news = News {
            warning: true,
            reason: "InvalidSpec",
            action: format!("RefuseGeneration{generation}"),
            note: format!("{complaint}; what runs stays as it is"),
        };
        let told = previous.as_ref() == Some(&new);
        match self.report(&self.applier(&namespace, (&name, &uid)), object, previous.as_ref(), new).await {
            // The API server takes no status of an object whose types do not fit its definition.
            Err(error) if error.reason() != "invalid" => return Err(error),
            _ => {}
        }
        if !told {
            self.shared.events.tell(&object.object_ref(&resource_api()), &[news]).await;
        }
        Ok(Action::await_change())
    }

    async fn report(
        &self,
        applier: &Applier<'_>,
        object: &DynamicObject,
        previous: Option<&Phase6ServiceStatus>,
        status: Phase6ServiceStatus,
    ) -> Result<(), Error> {
        if previous == Some(&status) {
            return Ok(());
        }
        let version = applier.report(&status).await?;
        self.memories.with(object, |memory| memory.status = Some((status, version)));
        Ok(())
    }

    fn applier<'a>(&'a self, namespace: &'a str, owner: (&'a str, &'a str)) -> Applier<'a> {
        Applier {
            client: &self.shared.client,
            world: &self.world,
            leadership: &self.shared.leadership,
            metrics: &self.shared.metrics,
            namespace,
            owner,
        }
    }
}

/// What was written a moment ago may not be shown yet: by what is shown, everything would seem done.
fn newer(shown: Option<Value>, written: Option<Value>) -> Option<Value> {
    let version = |object: &Value| Version::parse(object["metadata"]["resourceVersion"].as_str());
    match (shown, written) {
        (Some(shown), Some(written)) if version(&written) > version(&shown) => Some(written),
        (None, written) => written,
        (shown, _) => shown,
    }
}

/// How long to pause before replicas are asked again, so long after publishing.
fn pause(elapsed: Duration) -> Duration {
    (elapsed / 5).clamp(PAUSES.0, PAUSES.1)
}

/// A number from 0 to 1 that differs from resource to resource.
fn fraction(object: &DynamicObject) -> f64 {
    let sum =
        object.name_any().bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    f64::from(sum % 1000) / 1000.0
}

/// Pods that are finished do not count as replicas.
fn is_counted(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_counts_until_it_is_shown() {
        let deployment = |version: u64| Some(json!({"metadata": {"resourceVersion": version.to_string()}}));
        assert_eq!(newer(deployment(9), deployment(10)), deployment(10));
        assert_eq!(newer(deployment(10), deployment(9)), deployment(10));
        assert_eq!(newer(deployment(9), None), deployment(9));
        assert_eq!(newer(None, deployment(9)), deployment(9));
    }
}
