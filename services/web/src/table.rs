//! Which service answers a path: the longest prefix that matches by whole segments.

/// The services that are forwarded to.
pub(crate) const PEERS: [&str; 7] =
    ["training", "meta", "budget", "coach", "segmentation", "reports", "capabilities"];

/// Under what forwarded requests are counted, one for each of [`PEERS`].
pub(crate) const LABELS: [&str; 7] = [
    "forward training",
    "forward meta",
    "forward budget",
    "forward coach",
    "forward segmentation",
    "forward reports",
    "forward capabilities",
];

/// Prefixes and the index of the peer in [`PEERS`].
pub(crate) const TABLE: [(&str, usize); 21] = [
    ("/api/v1/training", 0),
    ("/api/v1/next-domain", 0),
    ("/api/v1/challenges", 0),
    ("/api/v1/sources", 0),
    ("/api/v1/feedback", 0),
    ("/api/v1/personalization", 0),
    ("/api/v1/improvement", 0),
    ("/api/v1/metrics/record", 0),
    ("/api/v1/metrics/performance", 0),
    ("/api/v4/meta-learning", 1),
    ("/api/v1/budget", 2),
    ("/api/v1/providers", 2),
    ("/api/v1/system/learning-stats", 2),
    ("/api/v1/auto-coach", 3),
    ("/api/v1/segmentation", 4),
    ("/api/v1/reports", 5),
    ("/api/v1/metrics", 5),
    ("/api/v1/badges", 5),
    ("/api/v1/analytics", 5),
    ("/api/v1/present", 5),
    ("/api/v1/capabilities", 6),
];

/// The peer that answers `path`, as an index into [`PEERS`].
pub(crate) fn peer(path: &str) -> Option<usize> {
    TABLE
        .iter()
        .filter(|(prefix, _)| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, peer)| *peer)
}

/// Whether a path holds what could mean another path to somebody else.
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

    fn named(path: &str) -> Option<&'static str> {
        peer(path).map(|peer| PEERS[peer])
    }

    #[test]
    fn every_prefix_reaches_its_service() {
        for (path, service) in [
            ("/api/v1/training/overview", "training"),
            ("/api/v1/next-domain", "training"),
            ("/api/v4/meta-learning/report", "meta"),
            ("/api/v1/budget", "budget"),
            ("/api/v1/providers/burst", "budget"),
            ("/api/v1/auto-coach/status", "coach"),
            ("/api/v1/segmentation/analyze", "segmentation"),
            ("/api/v1/reports/dashboard", "reports"),
            ("/api/v1/capabilities/list", "capabilities"),
        ] {
            assert_eq!(named(path), Some(service), "{path}");
        }
    }

    /// The original answered 502 for all of these, or sent them to a place that had moved.
    #[test]
    fn prefixes_that_the_original_missed_are_there() {
        for (path, service) in [
            ("/api/v1/challenges/start", "training"),
            ("/api/v1/feedback/summary", "training"),
            ("/api/v1/metrics/record", "training"),
            ("/api/v1/metrics/performance", "training"),
            ("/api/v1/metrics/user/7", "reports"),
            ("/api/v1/badges/leaderboard", "reports"),
            ("/api/v1/personalization/profile/7", "training"),
            ("/api/v1/improvement/analysis", "training"),
            ("/api/v1/present", "reports"),
            ("/api/v1/analytics/dashboard", "reports"),
            ("/api/v1/sources/github/issues/sync", "training"),
            ("/api/v1/providers/costs", "budget"),
            ("/api/v1/providers/recommend", "budget"),
            ("/api/v1/providers/resilience-status", "budget"),
            ("/api/v1/providers/realtime", "budget"),
            ("/api/v1/providers/performance-stream", "budget"),
            ("/api/v1/system/learning-stats", "budget"),
        ] {
            assert_eq!(named(path), Some(service), "{path}");
        }
    }

    #[test]
    fn prefixes_match_whole_segments() {
        for path in ["/api/v1/trainingX", "/api/v1", "/api/v1/budgets", "/api/v1/unknown", "/api"] {
            assert_eq!(named(path), None, "{path}");
        }
    }

    #[test]
    fn dot_segments_are_ambiguous_however_they_are_written() {
        for path in ["/api/v1/training/../budget", "/a/./b", "/a/%2e%2E/b", "/a/.%2e", "/a\\b", "/a/%5C.."] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["/a/b.c", "/a/...", "/a/%2Fb", "/.well-known"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
