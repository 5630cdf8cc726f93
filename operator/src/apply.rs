//! Writes to the API server, each only when it is needed and only by the leader.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use phase6_crds::Phase6ServiceStatus;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    build::{Kind, Object, policy_name},
    difference::{Step, sealed, step},
    error::Error,
    metrics::Metrics,
    world::{World, resource_api},
};

const STATUS_MANAGER: &str = "phase6-operator/status";
const REPLICAS_MANAGER: &str = "phase6-operator/replicas";

/// The right to write.
#[derive(Clone)]
pub struct Leadership {
    held: Option<watch::Receiver<bool>>,
}

impl Leadership {
    /// Follows an election.
    pub fn elected(held: watch::Receiver<bool>) -> Self {
        Self { held: Some(held) }
    }

    /// There is one replica of the operator, and nobody to share with.
    pub fn alone() -> Self {
        Self { held: None }
    }

    /// Whether this replica may write now.
    pub fn is_held(&self) -> bool {
        self.held.as_ref().is_none_or(|held| *held.borrow())
    }
}

/// Which version of an object somebody has seen. Greater is newer: API servers count them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The version that an object has; the lowest if it says none.
    pub fn of(object: &impl ResourceExt) -> Self {
        Self::parse(object.resource_version().as_deref())
    }

    /// The version of a text that an object holds.
    pub fn parse(text: Option<&str>) -> Self {
        Self(text.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// As the API writes it.
    pub fn text(self) -> Option<String> {
        (self.0 > 0).then(|| self.0.to_string())
    }
}

/// Writes on behalf of one resource.
pub struct Applier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) world: &'a World,
    pub(crate) leadership: &'a Leadership,
    pub(crate) metrics: &'a Metrics,
    pub(crate) namespace: &'a str,
    /// The resource's name and uid.
    pub(crate) owner: (&'a str, &'a str),
}

impl Applier<'_> {
    /// Brings an object to what is wanted. What had to be done is told, and what is there now if that was
    /// more than nothing.
    pub async fn bring(&self, wanted: &Object) -> Result<(Step, Option<Value>), Error> {
        let live = self.world.object(wanted.kind, self.namespace, &wanted.name);
        if let Some(live) = &live {
            self.make_sure_that_it_is_ours(wanted, live)?;
        }
        let step = step(wanted, live.as_ref());
        match step {
            Step::Nothing => return Ok((step, None)),
            Step::Create => self.make_sure_that_it_is_free(wanted).await?,
            Step::Change | Step::Repair(_) => {}
        }
        let body = sealed(wanted);
        let written = self.patch(wanted.kind, &wanted.name, wanted.kind.manager(), &body).await?;
        Ok((step, serde_json::to_value(written).ok()))
    }

    /// Publishes a policy in place of the version that it follows, and tells the version it now has. If
    /// another writer was faster, that is an error: two revisions of one number must never be seen.
    pub async fn publish(&self, wanted: &Object, follows: Option<&str>) -> Result<Version, Error> {
        if follows.is_none() {
            self.make_sure_that_it_is_free(wanted).await?;
        }
        let mut body = sealed(wanted);
        if let Some(version) = follows {
            body["metadata"]["resourceVersion"] = version.into();
        }
        let written = self.patch(wanted.kind, &wanted.name, wanted.kind.manager(), &body).await?;
        Ok(Version::of(&written))
    }

    /// Sets the number of replicas, if it is another one. The Deployment is told if it was.
    pub async fn scale(&self, wanted: &Value) -> Result<Option<Value>, Error> {
        let (name, _) = self.owner;
        let live = self.world.object(Kind::Deployment, self.namespace, name);
        let count = &wanted["spec"]["replicas"];
        if live.is_some_and(|live| live["spec"]["replicas"] == *count) {
            return Ok(None);
        }
        let written = self.patch(Kind::Deployment, name, REPLICAS_MANAGER, wanted).await?;
        Ok(serde_json::to_value(written).ok())
    }

    /// Removes objects of this resource that are no longer wanted.
    pub async fn prune(&self, wanted: &[Object]) -> Result<Vec<(Kind, String)>, Error> {
        let (name, uid) = self.owner;
        let mut removed = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::ConfigMap) {
            for found in self.world.belonging_to(kind, self.namespace, name, uid) {
                if wanted.iter().any(|object| object.kind == kind && object.name == found) {
                    continue;
                }
                self.may_write()?;
                let api = kind.api();
                match self.api(kind).delete(&found, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(Error::api(format!("delete {} {found}", api.kind))(error)),
                    Ok(_) => removed.push((kind, found)),
                }
                self.metrics.wrote(&api.kind);
            }
        }
        Ok(removed)
    }

    /// Writes a status, and tells the version that the resource has with it.
    pub async fn report(&self, status: &Phase6ServiceStatus) -> Result<Version, Error> {
        self.may_write()?;
        let (name, _) = self.owner;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace, &resource_api());
        // The whole status is ours. Server-side apply would refuse to touch a resource whose spec does
        // not fit its schema, which is the one whose status matters most.
        let replace = json!([{ "op": "add", "path": "/status", "value": status }]);
        let replace = serde_json::from_value(replace).expect("a patch of one operation");
        let parameters = PatchParams { field_manager: Some(STATUS_MANAGER.into()), ..PatchParams::default() };
        match api.patch_status(name, &parameters, &Patch::Json::<()>(replace)).await {
            // It was removed in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Version::default()),
            Err(error) => Err(Error::api(format!("write the status of {name}"))(error)),
            Ok(written) => {
                self.metrics.wrote("status");
                Ok(Version::of(&written))
            }
        }
    }

    /// Whether there is an object with the name of the policy's, asked of the API server.
    pub async fn policy_exists(&self) -> Result<bool, Error> {
        let name = policy_name(self.owner.0);
        let found = self.api(Kind::ConfigMap).get_metadata_opt(&name).await;
        Ok(found.map_err(Error::api(format!("look for ConfigMap {name}")))?.is_some())
    }

    /// What another owner controls is not taken over, even under our labels: it may be on its way out with
    /// a resource that had the name before. What nobody owns, and bears our labels, is adopted.
    pub fn make_sure_that_it_is_ours(&self, wanted: &Object, live: &Value) -> Result<(), Error> {
        let (_, uid) = self.owner;
        let owners = live["metadata"]["ownerReferences"].as_array();
        let foreign =
            owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["uid"] != uid);
        if foreign {
            return Err(Error::NameTaken { kind: wanted.kind.api().kind, name: wanted.name.clone() });
        }
        Ok(())
    }

    /// An object that nobody here made must not be taken over.
    async fn make_sure_that_it_is_free(&self, wanted: &Object) -> Result<(), Error> {
        let found = self.api(wanted.kind).get_metadata_opt(&wanted.name).await;
        let kind = wanted.kind.api().kind;
        let found = found.map_err(Error::api(format!("look for {kind} {}", wanted.name)))?;
        let (_, uid) = self.owner;
        let ours = |owner: &OwnerReference| owner.uid == uid;
        match found {
            Some(found) if !found.owner_references().iter().any(ours) => {
                Err(Error::NameTaken { kind, name: wanted.name.clone() })
            }
            _ => Ok(()),
        }
    }

    async fn patch(
        &self,
        kind: Kind,
        name: &str,
        manager: &str,
        body: &Value,
    ) -> Result<DynamicObject, Error> {
        self.may_write()?;
        let parameters = PatchParams::apply(manager).force();
        let result = self.api(kind).patch(name, &parameters, &Patch::Apply(body)).await;
        let kind = kind.api().kind;
        let written = result.map_err(Error::api(format!("apply {kind} {name}")))?;
        self.metrics.wrote(&kind);
        Ok(written)
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), self.namespace, &kind.api())
    }

    fn may_write(&self) -> Result<(), Error> {
        if self.leadership.is_held() { Ok(()) } else { Err(Error::NotLeader) }
    }
}
