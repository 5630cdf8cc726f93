//! The routes that a service declares: a closed set, which labels are taken from.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::Method;

pub(crate) const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];

/// A route that the service declared, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(u16);

impl RouteId {
    /// The route of requests that match no declared one.
    pub const UNMATCHED: Self = Self(0);

    /// As a number, for where nothing else can be kept.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<u16> for RouteId {
    /// Any number; one that is no route counts as unmatched.
    fn from(number: u16) -> Self {
        Self(number)
    }
}

/// The routes of a service; the first one stands for requests that match none.
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
        &self.templates[self.index(route)]
    }

    /// How many pairs of a route and a method there are.
    pub(crate) fn pairs(&self) -> usize {
        self.templates.len() * METHODS.len()
    }

    /// The number of a pair.
    pub(crate) fn pair(&self, route: RouteId, method: &Method) -> usize {
        // By number: this is on the way of every request, and names would be compared letter by letter.
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
        self.index(route) * METHODS.len() + method
    }

    /// Template and method of a pair.
    pub(crate) fn labels(&self, pair: usize) -> (&str, &'static str) {
        (&self.templates[pair / METHODS.len()], METHODS[pair % METHODS.len()])
    }

    /// The pair with these labels.
    pub(crate) fn pair_of_labels(&self, template: &str, method: &str) -> usize {
        let method = METHODS.iter().position(|name| *name == method).unwrap_or(METHODS.len() - 1);
        self.index(self.find(template)) * METHODS.len() + method
    }

    fn index(&self, route: RouteId) -> usize {
        Some(usize::from(route.0)).filter(|index| *index < self.templates.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_declared_is_unmatched() {
        let routes = Routes::new(["/a".into(), "/b".into(), "/a".into()]);
        assert_eq!(routes.template(routes.find("/b")), "/b");
        assert_eq!(routes.find("/c"), RouteId::UNMATCHED);
        assert_eq!(routes.template(RouteId::from(77)), "unmatched");
        assert_eq!(routes.pairs(), 3 * METHODS.len());
    }

    #[test]
    fn a_pair_of_route_and_method_is_one_number() {
        let routes = Routes::new(["/a".into(), "/b".into()]);
        let trace = Method::from_bytes(b"TRACE").unwrap();
        for name in METHODS {
            let method = if name == "other" { trace.clone() } else { name.parse().unwrap() };
            for (template, shown) in [("/a", "/a"), ("/b", "/b"), ("/c", "unmatched")] {
                let pair = routes.pair(routes.find(template), &method);
                assert_eq!(routes.labels(pair), (shown, name));
                assert_eq!(routes.pair_of_labels(shown, name), pair);
            }
        }
    }
}
