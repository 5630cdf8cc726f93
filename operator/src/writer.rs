//! Writes to the API server on behalf of one resource.
//!
//! Each write is refused here unless this replica leads, and counted. Deciding which writes are needed is
//! left to the stages.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use phase6_crds::Phase6ServiceStatus;
use serde_json::{Value, json};

use crate::{
    build::{Kind, Object},
    context::Context,
    error::{ApiError, ReconcileError},
    resource::{ResourceId, ResourceVersion, resource_api},
};

/// Field manager of the status.
const STATUS_MANAGER: &str = "phase6-operator/status";

/// Writer of the objects and the status of one resource.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    context: &'a Context,
    owner: &'a ResourceId,
}

impl<'a> Writer<'a> {
    /// Creates a writer for the resource `owner`.
    pub fn new(context: &'a Context, owner: &'a ResourceId) -> Self {
        Self { context, owner }
    }

    /// Returns the resource that this writer writes for.
    pub fn owner(&self) -> &'a ResourceId {
        self.owner
    }

    /// Applies `body` by server-side apply and returns the stored object. The manager takes over fields of
    /// other managers, and gives up its own fields that `body` leaves out.
    pub async fn apply_object(
        &self,
        kind: Kind,
        name: &str,
        manager: &str,
        body: &Value,
    ) -> Result<DynamicObject, ReconcileError> {
        self.check_leadership()?;
        let parameters = PatchParams::apply(manager).force();
        let result = self.api(kind).patch(name, &parameters, &Patch::Apply(body)).await;
        let kind = kind.api().kind;
        let stored = result.map_err(ReconcileError::api(format!("apply {kind} {name}")))?;
        self.context.metrics.record_write(&kind);
        Ok(stored)
    }

    /// Deletes an object. Returns false if it did not exist.
    pub async fn delete(&self, kind: Kind, name: &str) -> Result<bool, ReconcileError> {
        self.check_leadership()?;
        let result = self.api(kind).delete(name, &DeleteParams::default()).await;
        let kind = kind.api().kind;
        let deleted = match result.map_err(ApiError::from) {
            Ok(_) => true,
            Err(ApiError::Status(status)) if status.code == 404 => false,
            Err(source) => {
                return Err(ReconcileError::Api { operation: format!("delete {kind} {name}"), source });
            }
        };
        self.context.metrics.record_write(&kind);
        Ok(deleted)
    }

    /// Replaces the status and returns the version of the resource after the write, or the lowest version
    /// if the resource was deleted in the meantime.
    pub async fn write_status(
        &self,
        status: &Phase6ServiceStatus,
    ) -> Result<ResourceVersion, ReconcileError> {
        self.check_leadership()?;
        let ResourceId { namespace, name, .. } = self.owner;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), namespace, &resource_api());
        // The operator owns the whole status. Server-side apply would refuse to touch a resource whose spec
        // does not match its schema, and its status matters most.
        let replace = json!([{ "op": "add", "path": "/status", "value": status }]);
        let replace = serde_json::from_value(replace).expect("one add operation is a valid JSON patch");
        let parameters = PatchParams { field_manager: Some(STATUS_MANAGER.into()), ..PatchParams::default() };
        let result = api.patch_status(name, &parameters, &Patch::Json::<()>(replace)).await;
        match result.map_err(ApiError::from) {
            Ok(stored) => {
                self.context.metrics.record_write("status");
                Ok(ResourceVersion::of(&stored))
            }
            Err(ApiError::Status(status)) if status.code == 404 => Ok(ResourceVersion::default()),
            Err(source) => {
                Err(ReconcileError::Api { operation: format!("update the status of {name}"), source })
            }
        }
    }

    /// Looks up an object at the API server and returns true if it exists.
    pub async fn exists(&self, kind: Kind, name: &str) -> Result<bool, ReconcileError> {
        let found = self.api(kind).get_metadata_opt(name).await;
        let operation = format!("look up {} {name}", kind.api().kind);
        Ok(found.map_err(ReconcileError::api(operation))?.is_some())
    }

    /// Checks that no other owner controls a stored object.
    ///
    /// An object that another resource controls is refused even if it carries our labels: its owner may be
    /// an earlier resource of the same name that is being deleted. An object without a controller that
    /// carries our labels is adopted.
    pub fn check_ownership(&self, desired: &Object, live: &Value) -> Result<(), ReconcileError> {
        let owners = live["metadata"]["ownerReferences"].as_array();
        let is_foreign = |owner: &Value| owner["controller"] == true && owner["uid"] != self.owner.uid;
        if owners.into_iter().flatten().any(is_foreign) {
            return Err(name_taken(desired));
        }
        Ok(())
    }

    /// Checks at the API server that the name of an object to create is free, or taken by an object that the
    /// resource owns: an object that the operator did not make must not be overwritten.
    pub async fn check_name_free(&self, desired: &Object) -> Result<(), ReconcileError> {
        let found = self.api(desired.kind).get_metadata_opt(&desired.name).await;
        let operation = format!("look up {} {}", desired.kind.api().kind, desired.name);
        let is_owned = |owner: &OwnerReference| owner.uid == self.owner.uid;
        match found.map_err(ReconcileError::api(operation))? {
            Some(found) if !found.owner_references().iter().any(is_owned) => Err(name_taken(desired)),
            _ => Ok(()),
        }
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.context.client.clone(), &self.owner.namespace, &kind.api())
    }

    fn check_leadership(&self) -> Result<(), ReconcileError> {
        if self.context.leadership.is_held() { Ok(()) } else { Err(ReconcileError::NotLeader) }
    }
}

fn name_taken(desired: &Object) -> ReconcileError {
    ReconcileError::NameTaken { kind: desired.kind.api().kind, name: desired.name.clone() }
}
