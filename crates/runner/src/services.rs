//! The definition of every service of the catalog.

use phase6_catalog::{ServiceName, services};
use phase6_chassis::Definition;

macro_rules! definitions {
    ($({ name: $name:literal, package: $package:ident, $($rest:tt)* })*) => {
        &[$($package::SERVICE),*]
    };
}

/// Definitions, in the order of the catalog.
pub(crate) static DEFINITIONS: &[Definition] = services!(definitions);

/// Returns the definition of a service.
pub(crate) fn definition(name: ServiceName) -> &'static Definition {
    let is_named = |definition: &&Definition| definition.service.name == name.as_str();
    DEFINITIONS.iter().find(is_named).expect("every row of the catalog has a definition")
}

#[cfg(test)]
mod tests {
    use phase6_catalog::SERVICES;

    use super::*;

    #[test]
    fn every_service_of_the_catalog_has_its_own_definition() {
        let defined: Vec<_> = DEFINITIONS.iter().map(|definition| definition.service).collect();
        assert_eq!(defined, SERVICES.iter().collect::<Vec<_>>());
    }
}
