//! Parts of a service's OpenAPI description that its routes do not contain.
//!
//! Adds the service's name and purpose, the ways to authenticate, the envelope of successful responses, and a
//! description of every response that lacks one.

use http::StatusCode;
use utoipa::openapi::{
    AllOfBuilder, Info, Object, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, Type,
    path::{Operation, PathItem},
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use crate::Definition;

/// Name of the schema that all successful responses have in common.
const SUCCESS: &str = "Success";

/// Returns a description without routes.
pub(crate) fn begin(definition: &Definition, version: &str) -> OpenApi {
    let mut info = Info::new(format!("Phase6 {}", definition.service.name), version.to_owned());
    info.description = Some(definition.service.about.to_owned());
    OpenApiBuilder::new().info(info).build()
}

/// Completes the description of all routes.
pub(crate) fn complete(api: &mut OpenApi) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(header));
    // Each entry is an alternative; the empty one is for services that require no key.
    api.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []),
        SecurityRequirement::new::<_, [&str; 0], &str>("apiKey", []),
    ]);
    components.schemas.insert(SUCCESS.to_owned(), success().into());
    for (path, item) in &mut api.paths.paths {
        let has_envelope = ["/api/", "/system/"].iter().any(|prefix| path.starts_with(prefix));
        for operation in operations(item) {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    complete_response(response, status, has_envelope);
                }
            }
        }
    }
}

fn success() -> Object {
    let ok = ObjectBuilder::new().schema_type(Type::Boolean).description(Some("Always true."));
    ObjectBuilder::new().property("ok", ok).required("ok").build()
}

fn complete_response(response: &mut Response, status: &str, has_envelope: bool) {
    if response.description.is_empty() {
        let reason = status.parse::<StatusCode>().ok().and_then(|status| status.canonical_reason());
        response.description = String::from(reason.unwrap_or("Response"));
    }
    if let Some(RefOr::T(json)) = response.content.get_mut("application/json")
        && let Some(schema) = &mut json.schema
        && has_envelope
        && status.starts_with('2')
    {
        let both = AllOfBuilder::new().item(schema.clone()).item(Ref::from_schema_name(SUCCESS));
        *schema = RefOr::T(both.build().into());
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        item.get.as_mut(),
        item.put.as_mut(),
        item.post.as_mut(),
        item.delete.as_mut(),
        item.options.as_mut(),
        item.head.as_mut(),
        item.patch.as_mut(),
        item.trace.as_mut(),
    ]
    .into_iter()
    .flatten()
}
