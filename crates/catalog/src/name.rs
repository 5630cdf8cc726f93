//! The name of a service as it stands in a resource: only names of the catalog are accepted.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{SERVICES, Service, names};

/// Name of a service of the catalog.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServiceName(&'static Service);

/// A name that the catalog does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownService(String);

impl ServiceName {
    /// The row of the catalog.
    pub const fn service(self) -> &'static Service {
        self.0
    }

    /// The name.
    pub const fn as_str(self) -> &'static str {
        self.0.name
    }
}

impl From<&'static Service> for ServiceName {
    fn from(service: &'static Service) -> Self {
        Self(service)
    }
}

impl FromStr for ServiceName {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        Service::find(name).map(Self).ok_or_else(|| UnknownService(name.to_owned()))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for UnknownService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown service `{}`; accepted: {}", self.0, names())
    }
}

impl std::error::Error for UnknownService {}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ServiceName {
    fn schema_name() -> Cow<'static, str> {
        "ServiceName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
        json_schema!({"type": "string", "enum": names})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_catalog_are_accepted() {
        assert_eq!("budget".parse::<ServiceName>().unwrap().service().port, 3003);
        let error = "bugdet".parse::<ServiceName>().unwrap_err().to_string();
        assert!(error.starts_with("unknown service `bugdet`; accepted: web, training, "), "{error}");
    }
}
