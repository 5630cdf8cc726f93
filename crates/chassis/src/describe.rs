//! What `/openapi.json` says beyond the routes: who the service is, how callers show who they are,
//! and a word about every answer.

use http::StatusCode;
use utoipa::openapi::{
    Info, OpenApi, OpenApiBuilder, RefOr,
    path::{Operation, PathItem},
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use crate::Definition;

/// A description without routes.
pub(crate) fn begin(definition: &Definition, version: &str) -> OpenApi {
    let mut info = Info::new(format!("Phase6 {}", definition.name), version.to_owned());
    info.description = Some(definition.about.to_owned());
    OpenApiBuilder::new().info(info).build()
}

/// Adds what the routes do not say themselves.
pub(crate) fn complete(api: &mut OpenApi) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(header));
    // Any one of them; none where nobody needs a key.
    api.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []),
        SecurityRequirement::new::<_, [&str; 0], &str>("apiKey", []),
    ]);
    for operation in api.paths.paths.values_mut().flat_map(operations) {
        for (status, answer) in &mut operation.responses.responses {
            if let RefOr::T(answer) = answer
                && answer.description.is_empty()
            {
                let reason = status.parse::<StatusCode>().ok().and_then(|status| status.canonical_reason());
                answer.description = String::from(reason.unwrap_or("An answer"));
            }
        }
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
