//! Closed sets that request labels are taken from: declared routes, methods and status classes.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::{Method, StatusCode};

/// Method labels; the last one stands for every method that has no separate label.
pub(crate) const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];

/// Index of a route that the service declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(u16);

impl RouteId {
    /// The route of requests that match no declared route.
    pub const UNMATCHED: Self = Self(0);

    /// Returns the index, for storage in an atomic.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<u16> for RouteId {
    /// Accepts any number; one that is no route's index counts as unmatched.
    fn from(index: u16) -> Self {
        Self(index)
    }
}

/// Class of a response status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// 1xx.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirection,
    /// 4xx.
    ClientError,
    /// 5xx.
    ServerError,
}

impl StatusClass {
    /// All classes, in ascending order.
    pub const ALL: [Self; 5] =
        [Self::Informational, Self::Success, Self::Redirection, Self::ClientError, Self::ServerError];

    /// Returns the class as a label, `1xx` to `5xx`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }

    /// Returns the index in [`Self::ALL`] of a status. Statuses above 599 count as 5xx.
    pub(crate) fn index_of(status: StatusCode) -> usize {
        usize::from(status.as_u16() / 100).clamp(1, 5) - 1
    }
}

/// Labels of a combination of route and method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteLabels<'a> {
    /// Path template of the route.
    pub(crate) route: &'a str,
    pub(crate) method: &'static str,
}

/// Declared routes of a service. The first one stands for requests that match none.
///
/// Each combination of a route and a method has an index below [`Routes::combinations`].
pub(crate) struct Routes {
    templates: Vec<String>,
    by_template: HashMap<String, RouteId, RandomState>,
}

impl Routes {
    pub(crate) fn new(templates: impl IntoIterator<Item = String>) -> Self {
        let mut routes = Self { templates: vec!["unmatched".into()], by_template: HashMap::default() };
        for template in templates {
            let id = RouteId(routes.templates.len() as u16);
            if !routes.by_template.contains_key(&template) {
                routes.by_template.insert(template.clone(), id);
                routes.templates.push(template);
            }
        }
        routes
    }

    pub(crate) fn find(&self, template: &str) -> RouteId {
        self.by_template.get(template).copied().unwrap_or(RouteId::UNMATCHED)
    }

    pub(crate) fn template(&self, route: RouteId) -> &str {
        &self.templates[self.route_index(route)]
    }

    /// Returns the number of combinations of a route and a method.
    pub(crate) fn combinations(&self) -> usize {
        self.templates.len() * METHODS.len()
    }

    /// Returns the index of a combination.
    pub(crate) fn combination(&self, route: RouteId, method: &Method) -> usize {
        // Matched on the enum rather than looked up in METHODS: this runs for every request, and comparing
        // strings costs more.
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::PATCH => 4,
            Method::DELETE => 5,
            Method::OPTIONS => 6,
            _ => 7,
        };
        self.route_index(route) * METHODS.len() + method
    }

    /// Returns the labels of a combination.
    pub(crate) fn labels(&self, combination: usize) -> RouteLabels<'_> {
        RouteLabels {
            route: &self.templates[combination / METHODS.len()],
            method: METHODS[combination % METHODS.len()],
        }
    }

    /// Returns the index of the combination with these labels.
    pub(crate) fn combination_of_labels(&self, template: &str, method: &str) -> usize {
        let method = METHODS.iter().position(|name| *name == method).unwrap_or(METHODS.len() - 1);
        self.route_index(self.find(template)) * METHODS.len() + method
    }

    fn route_index(&self, route: RouteId) -> usize {
        Some(usize::from(route.0)).filter(|index| *index < self.templates.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undeclared_routes_are_unmatched() {
        let routes = Routes::new(["/a".into(), "/b".into(), "/a".into()]);
        assert_eq!(routes.template(routes.find("/b")), "/b");
        assert_eq!(routes.find("/c"), RouteId::UNMATCHED);
        assert_eq!(routes.template(RouteId::from(77)), "unmatched");
        assert_eq!(routes.combinations(), 3 * METHODS.len());
    }

    #[test]
    fn a_combination_and_its_labels_map_to_each_other() {
        let routes = Routes::new(["/a".into(), "/b".into()]);
        let trace = Method::from_bytes(b"TRACE").unwrap();
        for name in METHODS {
            let method = if name == "other" { trace.clone() } else { name.parse().unwrap() };
            for (template, label) in [("/a", "/a"), ("/b", "/b"), ("/c", "unmatched")] {
                let combination = routes.combination(routes.find(template), &method);
                assert_eq!(routes.labels(combination), RouteLabels { route: label, method: name });
                assert_eq!(routes.combination_of_labels(label, name), combination);
            }
        }
    }

    #[test]
    fn every_status_has_a_class() {
        for (status, label) in
            [(100, "1xx"), (204, "2xx"), (304, "3xx"), (404, "4xx"), (503, "5xx"), (999, "5xx")]
        {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(StatusClass::ALL[StatusClass::index_of(status)].label(), label);
        }
    }
}
