//! Parts of a service's OpenAPI description that its routes do not contain.
//!
//! Adds the service's name and purpose, the ways to authenticate, the role that each operation requires, the
//! envelope of successful responses, and a description of every response that lacks one.

use http::StatusCode;
use utoipa::openapi::{
    AllOfBuilder, ContentBuilder, Info, Object, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, Type,
    path::{Operation, PathItem},
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{Definition, request::Permission, stack::is_public};

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
    components.schemas.insert(SUCCESS.to_owned(), success().into());
    for (path, item) in &mut api.paths.paths {
        let has_envelope = ["/api/", "/system/"].iter().any(|prefix| path.starts_with(prefix));
        for (method, operation) in operations(item) {
            if !is_public(path) {
                let security = || Permission::default_for(method).security();
                operation.security.get_or_insert_with(security);
                add_rejections(operation);
            }
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

/// Adds the responses to requests without a principal, and to those of one that lacks the role.
fn add_rejections(operation: &mut Operation) {
    for (status, description) in [
        ("401", "An API key is required, and the request has none or an unknown one"),
        ("403", "The role of the API key is not enough"),
    ] {
        let rejection = || {
            let schema = Ref::from_schema_name("ErrorBody");
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let response =
                ResponseBuilder::new().description(description).content("application/json", content);
            RefOr::T(response.build())
        };
        operation.responses.responses.entry(status.to_owned()).or_insert_with(rejection);
    }
}

/// Returns the operations of a path, each with its method in lower case.
pub(crate) fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", item.get.as_mut()),
        ("put", item.put.as_mut()),
        ("post", item.post.as_mut()),
        ("delete", item.delete.as_mut()),
        ("options", item.options.as_mut()),
        ("head", item.head.as_mut()),
        ("patch", item.patch.as_mut()),
        ("trace", item.trace.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}
