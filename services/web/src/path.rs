//! Paths that two programs can read as two different paths.

/// True if `path` has dot segments or backslashes, written plainly or percent-encoded: another program
/// on the way could resolve them, and would then see another path than the limiter and the router did.
pub(crate) fn is_ambiguous(path: &str) -> bool {
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
        // Almost every path.
        return false;
    }
    let decoded = path.to_ascii_lowercase().replace("%2e", ".");
    path.contains('\\')
        || decoded.contains("%5c")
        || decoded.split('/').any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_and_backslashes_are_ambiguous_in_every_encoding() {
        for path in ["/api/v1/training/../budget", "/a/./b", "/a/%2e%2E/b", "/a/.%2e", "/a\\b", "/a/%5C.."] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["/a/b.c", "/a/...", "/a/%2Fb", "/.well-known"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
