//! Permissions: the role that an operation requires of its principal.
//!
//! ```text
//! routes -> require(role) -> OpenAPI `security` of the operation -> Permissions -> 403, before the handler
//! ```
//!
//! The description is the only source: what `/openapi.json` says of an operation is what applies to it. An
//! operation that [`require`] does not name requires `reader` if its method is safe, else `member`.

use std::collections::HashMap;

use http::{Method, StatusCode};
use phase6_identity::{Principal, Role};
use serde_json::{Value, json};
use utoipa::openapi::{OpenApi, security::SecurityRequirement};
use utoipa_axum::router::UtoipaMethodRouter;

use super::ApiError;
use crate::operations::describe::operations;

/// Scope of operations on what all tenants share.
const FLEET_SCOPE: &str = "tenant:default";
/// Names of the security schemes.
pub(crate) const SCHEMES: [&str; 2] = ["bearer", "apiKey"];

/// Requires `role` of the principals that call these routes.
pub fn require<S>(role: Role, routes: UtoipaMethodRouter<S>) -> UtoipaMethodRouter<S> {
    annotate(Permission { role, is_fleet_wide: false }, routes)
}

/// Requires `role` in the default tenant, whose principals operate the fleet: for what all tenants share.
pub fn require_in_fleet<S>(role: Role, routes: UtoipaMethodRouter<S>) -> UtoipaMethodRouter<S> {
    annotate(Permission { role, is_fleet_wide: true }, routes)
}

fn annotate<S>(
    permission: Permission,
    (schemas, mut paths, router): UtoipaMethodRouter<S>,
) -> UtoipaMethodRouter<S> {
    for (_, operation) in paths.paths.values_mut().flat_map(operations) {
        operation.security = Some(permission.security());
    }
    (schemas, paths, router)
}

/// Requirement of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    role: Role,
    /// True if the principal must be one of the default tenant.
    is_fleet_wide: bool,
}

impl Permission {
    /// Returns the permission of an operation that [`require`] does not name.
    pub(crate) fn default_for(method: &str) -> Self {
        let is_safe = ["get", "head", "options", "trace"].contains(&method);
        Self { role: if is_safe { Role::Reader } else { Role::Member }, is_fleet_wide: false }
    }

    /// Returns the requirement in the words of `OpenAPI`: either scheme, with the role as a scope.
    pub(crate) fn security(self) -> Vec<SecurityRequirement> {
        let scopes = [Some(self.role.as_str()), self.is_fleet_wide.then_some(FLEET_SCOPE)];
        let requirement = |scheme| SecurityRequirement::new(scheme, scopes.iter().copied().flatten());
        SCHEMES.into_iter().map(requirement).collect()
    }

    /// Reads the requirement of an operation; `None` for one without.
    fn of(operation: &Value) -> Option<Self> {
        let scopes =
            operation["security"].as_array()?.iter().find_map(|entry| entry[SCHEMES[0]].as_array())?;
        let role = scopes.iter().find_map(|scope| scope.as_str()?.parse().ok())?;
        Some(Self { role, is_fleet_wide: scopes.contains(&json!(FLEET_SCOPE)) })
    }

    /// True if not every principal of the tenant may see the response, so that no cache may store it.
    pub(crate) fn is_restricted(self) -> bool {
        self.role > Role::Reader || self.is_fleet_wide
    }

    /// Checks that a principal has the permission.
    ///
    /// # Errors
    ///
    /// 403 with the code `forbidden`.
    pub(crate) fn check(self, principal: &Principal) -> Result<(), ApiError> {
        let role = self.role;
        let message = if principal.role < role {
            format!("the role `{}` may not do this; required: `{role}`", principal.role)
        } else if self.is_fleet_wide && !principal.is_in_default_tenant() {
            format!(
                "this concerns all tenants; required: the role `{role}` in the tenant `{}`",
                Principal::default_tenant()
            )
        } else {
            return Ok(());
        };
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
    }
}

/// Permissions of all operations of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Permissions {
    by_path: HashMap<String, Vec<(Method, Permission)>>,
}

impl Permissions {
    /// Reads the permissions from a complete description.
    pub(crate) fn of(api: &OpenApi) -> Self {
        let description = serde_json::to_value(&api.paths).unwrap_or_default();
        let mut permissions = Self::default();
        for (path, item) in description.as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
                if let (Ok(method), Some(permission)) = (method, Permission::of(operation)) {
                    permissions.by_path.entry(path.clone()).or_default().push((method, permission));
                }
            }
        }
        permissions
    }

    /// Returns the permission of an operation; `None` for one without requirement.
    pub(crate) fn get(&self, path: &str, method: &Method) -> Option<Permission> {
        // A HEAD request is served by the handler of GET.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let operations = self.by_path.get(path)?;
        operations.iter().find(|(of, _)| of == method).map(|(_, permission)| *permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(tenant: &str, role: Role) -> Principal {
        Principal { tenant: tenant.parse().unwrap(), subject: "ada".parse().unwrap(), role }
    }

    #[test]
    fn a_role_is_enough_for_what_lesser_roles_may_do() {
        for required in Role::ALL {
            let permission = Permission { role: required, is_fleet_wide: false };
            for role in Role::ALL {
                let allowed = permission.check(&principal("acme", role)).is_ok();
                assert_eq!(allowed, role >= required, "{role} for {required}");
            }
        }
    }

    #[test]
    fn what_all_tenants_share_requires_the_default_tenant() {
        let permission = Permission { role: Role::Admin, is_fleet_wide: true };
        assert!(permission.check(&principal("default", Role::Admin)).is_ok());
        let error = permission.check(&principal("acme", Role::Admin)).unwrap_err();
        assert_eq!(error.status(), StatusCode::FORBIDDEN);
        assert!(error.message().ends_with("required: the role `admin` in the tenant `default`"));
    }

    #[test]
    fn a_description_says_what_applies() {
        for role in Role::ALL {
            for is_fleet_wide in [false, true] {
                let permission = Permission { role, is_fleet_wide };
                let operation = json!({"security": permission.security()});
                assert_eq!(Permission::of(&operation), Some(permission));
            }
        }
        assert_eq!(Permission::of(&json!({"security": [{}]})), None);
    }
}
