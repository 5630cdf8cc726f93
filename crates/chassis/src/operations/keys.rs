//! API keys: `GET` and `POST /api/v1/keys`, `DELETE /api/v1/keys/{id}`.
//!
//! An admin manages the keys of its tenant, and an admin of the default tenant those of all. The secret of a key
//! is in the response to its creation only.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use phase6_identity::{ChangeKeysError, KeyId, ListedKey, Name, NewKey, Principal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ServiceState;
use crate::{ApiError, ErrorBody, Faults, FieldFault, Json, Page, PageQuery, Path, Query, Reply};

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKeyRequest {
    /// Tenant whose data the key gives access to: 1 to 64 letters, digits, dashes, dots, underscores or @. Default:
    /// the tenant of the caller. Only admins of the tenant `default` may name another one.
    tenant: Option<String>,
    /// Permissions: `admin`, `service`, `member` or `reader`.
    role: String,
    /// Person or program that will hold the key: 1 to 64 letters, digits, dashes, dots, underscores or @. Several
    /// keys may have one name: they are the same subject.
    name: String,
}

/// A key and its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedKey {
    /// ID, by which the key is revoked.
    id: String,
    /// The secret. It cannot be shown again.
    key: String,
}

/// A key without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct KeyItem {
    /// ID, by which the key is revoked.
    id: String,
    /// Tenant whose data the key gives access to.
    tenant: String,
    /// Person or program that holds the key.
    name: String,
    /// Permissions: `admin`, `service`, `member` or `reader`.
    role: &'static str,
    /// Time of its creation; null for keys of the key file.
    created: Option<String>,
    /// Place where it is stored: `file` or `database`.
    source: &'static str,
}

impl From<ListedKey> for KeyItem {
    fn from(key: ListedKey) -> Self {
        Self {
            id: key.id.to_string(),
            tenant: key.principal.tenant.to_string(),
            name: key.principal.subject.to_string(),
            role: key.principal.role.as_str(),
            created: key.created.map(|created| created.to_string()),
            source: key.source.as_str(),
        }
    }
}

/// A revoked key.
#[derive(Serialize, ToSchema)]
pub(crate) struct RevokedKey {
    /// ID of the key.
    id: String,
}

/// Returns the tenant whose keys a principal manages; `None` for all.
fn managed_tenant(principal: &Principal) -> Option<&Name> {
    (!principal.is_in_default_tenant()).then_some(&principal.tenant)
}

/// Lists the API keys of the tenant, or of all tenants for an admin of the tenant `default`, by ID.
#[utoipa::path(get, path = "/api/v1/keys", tag = "operations", operation_id = "list_keys", params(PageQuery),
    responses((status = 200, body = Page<KeyItem>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(state): State<Arc<ServiceState>>,
    principal: Principal,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<KeyItem>>, ApiError> {
    let request = query.check::<String>()?;
    let keys = state.keys.list(managed_tenant(&principal)).into_iter();
    let is_next = |key: &ListedKey| request.after.as_deref().is_none_or(|after| key.id.as_str() > after);
    let keys: Vec<KeyItem> = keys.filter(is_next).take(request.limit + 1).map(Into::into).collect();
    Ok(Reply::new(Page::new(keys, request.limit, |key| key.id.clone())))
}

/// Creates an API key. The first one must be an admin of the tenant `default`. It is accepted at once by this service, and within about a second by all others.
#[utoipa::path(post, path = "/api/v1/keys", tag = "operations", operation_id = "create_key",
    request_body = CreateKeyRequest,
    responses((status = 200, body = Reply<CreatedKey>), (status = 400, body = ErrorBody),
        (status = 409, description = "The fleet has no database for keys, or too many keys, or this would be the first key and not an admin of the tenant `default`", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<Arc<ServiceState>>,
    principal: Principal,
    Json(request): Json<CreateKeyRequest>,
) -> Result<Reply<CreatedKey>, ApiError> {
    let created = request.principal(&principal)?;
    if managed_tenant(&principal).is_some_and(|managed| *managed != created.tenant) {
        let message = format!("tenant: an admin of {} may only create keys of that tenant", principal.tenant);
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let new = NewKey { principal: created.clone(), now: state.clock.now() };
    let (id, key) = state.keys.create(new).await?;
    tracing::info!(%id, tenant = %created.tenant, subject = %created.subject, role = %created.role,
        by = %principal.subject, "API key created");
    Ok(Reply::new(CreatedKey { id: id.to_string(), key: key.secret().to_owned() }))
}

/// Revokes an API key. It is refused at once by this service, and within about a second by all others.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", tag = "operations", operation_id = "revoke_key",
    params(("id" = String, Path)),
    responses((status = 200, body = Reply<RevokedKey>), (status = 404, body = ErrorBody),
        (status = 409, description = "The key is in the key file", body = ErrorBody)))]
pub(crate) async fn revoke(
    State(state): State<Arc<ServiceState>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Reply<RevokedKey>, ApiError> {
    let id = KeyId::from(id);
    if !state.keys.revoke(&id, managed_tenant(&principal), state.clock.now()).await? {
        return Err(ApiError::not_found(format!("no key has the ID {:?}", id.as_str())));
    }
    tracing::info!(%id, by = %principal.subject, "API key revoked");
    Ok(Reply::new(RevokedKey { id: id.to_string() }))
}

impl CreateKeyRequest {
    /// Checks the values of a request by `caller`.
    fn principal(&self, caller: &Principal) -> Result<Principal, ApiError> {
        let mut faults = Faults::default();
        let tenant = match &self.tenant {
            Some(tenant) => faults.check("tenant", tenant.parse()),
            None => Some(caller.tenant.clone()),
        };
        let subject: Option<Name> = faults.check("name", self.name.parse());
        let role = faults.check("role", self.role.parse());
        let principal = tenant.zip(subject).zip(role);
        let principal = principal.map(|((tenant, subject), role)| Principal { tenant, subject, role });
        if principal.as_ref().is_some_and(Principal::is_anonymous) {
            faults.add(FieldFault::new(
                "name",
                "is reserved for callers without credentials",
                "another name",
            ));
        }
        faults.all(principal)
    }
}

impl From<ChangeKeysError> for ApiError {
    fn from(error: ChangeKeysError) -> Self {
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, error.to_string());
        match error {
            ChangeKeysError::FirstKey => conflict("first_key_must_be_admin"),
            ChangeKeysError::NoDatabase => conflict("no_key_database"),
            ChangeKeysError::InFile(_) => conflict("key_in_file"),
            ChangeKeysError::TooMany => conflict("too_many_keys"),
            ChangeKeysError::Store(error) => error.into(),
        }
    }
}
