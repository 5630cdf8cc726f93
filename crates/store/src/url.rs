//! Database addresses. Displayed without credentials.

use std::{fmt, path::Path, str::FromStr};

/// Address of a database.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file; missing folders are created.
    Sqlite(std::path::PathBuf),
    /// A database on a PostgreSQL server, as a URL.
    Postgres(String),
}

/// Error for a text that is not a database URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid database URL; accepted: sqlite://PATH of a file, or postgres://USER@HOST/NAME")]
pub struct InvalidUrl;

impl DatabaseUrl {
    /// Returns the address of a SQLite file.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::Sqlite(path.as_ref().to_owned())
    }

    pub(crate) fn connect_string(&self) -> String {
        match self {
            Self::Sqlite(path) => {
                // These characters have a meaning in a URL.
                let path = path.display().to_string();
                let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
                format!("sqlite://{path}?mode=rwc")
            }
            Self::Postgres(url) => url.clone(),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) {
            let path = path.split('?').next().unwrap_or_default();
            // In memory, every connection of a pool would have a separate database.
            let in_memory = path.starts_with(":memory:") || text.contains("mode=memory");
            return if path.is_empty() || in_memory { Err(InvalidUrl) } else { Ok(Self::file(path)) };
        }
        let server = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        if server { Ok(Self::Postgres(text.to_owned())) } else { Err(InvalidUrl) }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => {
                let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
                // Credentials precede the last `@` of the authority; the query may contain more of them.
                let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(authority_end);
                let host = authority.rsplit('@').next().unwrap_or_default();
                write!(f, "postgres://{host}{}", path.split('?').next().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_urls_of_both_databases_and_rejects_others() {
        assert_eq!("sqlite://a/b.db".parse(), Ok(DatabaseUrl::file("a/b.db")));
        assert_eq!("sqlite:///a/b.db".parse(), Ok(DatabaseUrl::file("/a/b.db")));
        assert!("postgres://u@h/d".parse::<DatabaseUrl>().is_ok());
        for text in [
            "",
            "mysql://h/d",
            "sqlite://",
            "/a/b.db",
            "sqlite::memory:",
            "sqlite://:memory:",
            "sqlite://a?mode=memory",
        ] {
            assert_eq!(text.parse::<DatabaseUrl>(), Err(InvalidUrl), "{text}");
        }
    }

    #[test]
    fn never_displays_credentials() {
        let url: DatabaseUrl = "postgres://user:p%40ss@db:5432/phase6?password=hidden".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://db:5432/phase6");
        assert_eq!(format!("{url:?}"), "postgres://db:5432/phase6");
    }
}
