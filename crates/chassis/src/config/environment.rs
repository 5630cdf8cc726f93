//! Variables of the environment, as the process was given them.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    sync::Arc,
};

/// Environment variables by name. Clones share them.
#[derive(Clone, Default)]
pub struct Environment {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    variables: HashMap<String, String>,
    /// Names of variables whose values are not UTF-8.
    unreadable: BTreeSet<String>,
}

impl Environment {
    /// Returns the environment of this process.
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Names that are not UTF-8 are left out: Phase6 has none.
    fn new(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut inner = Inner::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(inner.variables.insert(name, value)),
                Err(_) => drop(inner.unreadable.insert(name)),
            }
        }
        Self { inner: Arc::new(inner) }
    }

    /// Returns the value of a variable. An empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.inner.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// True if the variable has a value that is not UTF-8.
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.inner.unreadable.contains(name)
    }

    /// Names of all variables, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.variables.keys().chain(&self.inner.unreadable).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { inner: Arc::new(Inner { variables: variables.collect(), unreadable: BTreeSet::new() }) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn values_that_are_not_utf8_differ_from_absent_ones() {
        let variables = [("LIMIT", &b"5\xff"[..]), ("NAME", b"value"), ("EMPTY", b"")];
        let environment = Environment::new(
            variables.map(|(name, value)| (name.into(), OsString::from_vec(value.to_vec()))).into_iter(),
        );
        assert!(environment.is_unreadable("LIMIT") && !environment.is_unreadable("NAME"));
        assert_eq!((environment.get("LIMIT"), environment.get("NAME")), (None, Some("value")));
        assert_eq!((environment.get("EMPTY"), environment.is_unreadable("EMPTY")), (None, false));
        assert_eq!(environment.names().collect::<BTreeSet<_>>(), BTreeSet::from(["EMPTY", "LIMIT", "NAME"]));
    }
}
