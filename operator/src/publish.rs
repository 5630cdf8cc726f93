//! The write that everything waits for: a policy, published in its `ConfigMap`.
//!
//! Revisions only grow, and no two policies ever bear one number, whatever the watches have shown so
//! far, whoever removed the object, and whoever published before this process.

use std::time::Instant;

use jiff::Timestamp;
use kube::{ResourceExt, api::DynamicObject};
use phase6_crds::{Phase6Service, Phase6ServiceStatus};
use phase6_policy::PolicyDocument;

use crate::{
    apply::{Applier, Version},
    build::{self, Kind, policy_config_map, policy_document},
    difference::Step,
    error::Error,
    events::{News, told_when_published},
    reconcile::Reconciler,
};

impl Reconciler {
    /// Publishes the policy, if it is not. The moment is told if it was published by this process.
    pub(crate) async fn publish(
        &self,
        resource: &Phase6Service,
        object: &DynamicObject,
        status: Option<&Phase6ServiceStatus>,
        ready: usize,
        applier: &Applier<'_>,
        news: &mut Vec<News>,
    ) -> Result<(PolicyDocument, Option<Instant>), Error> {
        let mut remembered = self.memories.with(object, |memory| memory.published.clone());
        let live =
            self.world.object(Kind::ConfigMap, applier.namespace, &build::policy_name(applier.owner.0));
        if let Some((_, version, _)) = &mut remembered
            && live.is_none()
            && !applier.policy_exists().await?
        {
            // Not yet shown, and removed, look the same from here.
            *version = Version::default();
        }
        let live_version = live.as_ref().map_or(Version::default(), |live| {
            let text = live["metadata"]["resourceVersion"].as_str();
            Version::parse(text)
        });
        let unseen = remembered.as_ref().filter(|(_, version, _)| *version > live_version);
        let published = match unseen {
            Some((document, ..)) => Some(document.clone()),
            None => live.as_ref().and_then(build::published),
        };
        let uid = resource.uid().unwrap_or_default();
        let told =
            status.and_then(|status| status.policy.as_ref()).map_or(0, |policy| policy.revision as u64);
        let known = remembered.as_ref().filter(|(document, ..)| document.owner_uid == uid);
        let least = known.map_or(told, |(document, ..)| document.revision.max(told));
        // What is published counts only if it is this resource's: another one had the name before.
        let published = published.filter(|document| document.owner_uid == uid);
        let mut document =
            policy_document(resource, published.as_ref(), least, ready.max(1) as u32, Timestamp::now());
        if published.is_none()
            && let Some((lost, ..)) = known.filter(|(lost, ..)| lost.policy == document.policy)
        {
            // It was removed, and nothing else is asked for: the same again.
            document = lost.clone();
        }
        let is_new = published.as_ref() != Some(&document);
        let wanted = policy_config_map(resource, &document);
        let step = crate::difference::step(&wanted, live.as_ref());
        if unseen.is_some() && !is_new || step == Step::Nothing {
            let since = remembered.filter(|(kept, ..)| *kept == document).map(|(.., since)| since);
            return Ok((document, since));
        }
        if let Some(live) = &live {
            applier.make_sure_that_it_is_ours(&wanted, live)?;
        }
        let follows = unseen.map_or(live_version, |(_, version, _)| *version);
        let version = applier.publish(&wanted, follows.text().as_deref()).await?;
        let now = Instant::now();
        if is_new {
            tracing::info!(
                namespace = applier.namespace,
                name = applier.owner.0,
                revision = document.revision,
                "policy published"
            );
            news.push(told_when_published(published.as_ref(), &document));
        }
        self.memories.with(object, |memory| memory.published = Some((document.clone(), version, now)));
        Ok((document, Some(now)))
    }
}
