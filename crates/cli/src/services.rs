//! The eight services, in one place.

use phase6_chassis::Definition;

/// All of them, in the order of their ports.
pub(crate) const ALL: [Definition; 8] = [
    phase6_web::SERVICE,
    phase6_training::SERVICE,
    phase6_meta::SERVICE,
    phase6_budget::SERVICE,
    phase6_coach::SERVICE,
    phase6_segmentation::SERVICE,
    phase6_reports::SERVICE,
    phase6_capabilities::SERVICE,
];

/// The ports are given as 3000 and up.
pub(crate) const BASE_PORT: u16 = 3000;

/// The service of a name.
pub(crate) fn named(name: &str) -> Option<&'static Definition> {
    static SERVICES: [Definition; 8] = ALL;
    SERVICES.iter().find(|service| service.name == name)
}

/// The port of a service in a fleet whose ports begin at `base_port`.
pub(crate) fn port(service: &Definition, base_port: u16) -> u16 {
    service.port - BASE_PORT + base_port
}

/// All names, for messages.
pub(crate) fn names() -> String {
    ALL.map(|service| service.name).join(", ")
}

#[cfg(test)]
mod tests {
    use phase6_crds::ServiceName;

    use super::*;

    #[test]
    fn they_are_the_eight_that_a_resource_can_name() {
        let here: Vec<_> = ALL.iter().map(|service| (service.name, service.port)).collect();
        let there: Vec<_> = ServiceName::ALL.iter().map(|name| (name.as_str(), name.port())).collect();
        assert_eq!(here, there);
    }

    #[test]
    fn ports_are_the_design_s_and_unique() {
        let ports = ALL.map(|service| service.port);
        assert_eq!(ports, [3000, 3001, 3002, 3003, 3004, 3007, 3008, 3009]);
        assert_eq!(port(&ALL[3], 8000), 8003);
    }
}
