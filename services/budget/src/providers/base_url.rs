//! Addresses of provider APIs, shown without credentials.

use std::fmt;

use phase6_chassis::without_credentials;

/// Address of a provider's API, without a slash at its end. Its `Display` and `Debug` forms show
/// neither user name nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

/// A text that is not the address of an API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {shown:?}; accepted: an address that begins with http:// or https://")]
pub struct InvalidBaseUrl {
    /// The text without credentials.
    pub shown: String,
}

impl BaseUrl {
    /// Parses an address; surrounding white space and slashes at the end are ignored.
    ///
    /// # Errors
    ///
    /// The address is not a URL with scheme `http` or `https`.
    pub fn parse(text: &str) -> Result<Self, InvalidBaseUrl> {
        let url = text.trim().trim_end_matches('/');
        let has_scheme = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        if has_scheme && reqwest::Url::parse(url).is_ok() {
            Ok(Self(url.to_owned()))
        } else {
            Err(InvalidBaseUrl { shown: without_credentials(url) })
        }
    }

    /// Returns the address of `path`, which begins with a slash. Includes credentials.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_never_shown() {
        let url = BaseUrl::parse("http://user:secret@host/v1/").unwrap();
        assert_eq!(format!("{url} {url:?}"), "http://host/v1 BaseUrl(http://host/v1)");
        assert_eq!(url.join("/models"), "http://user:secret@host/v1/models");
    }

    #[test]
    fn rejects_other_schemes_without_showing_credentials() {
        let error = BaseUrl::parse("ftp://user:secret@host").unwrap_err();
        assert_eq!(error, InvalidBaseUrl { shown: "ftp://host".into() });
    }
}
