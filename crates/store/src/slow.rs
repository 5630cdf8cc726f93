//! Log of slow statements, keyed by their text without values.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

/// Distinct statements in the log.
const CAPACITY: usize = 100;

/// Statement that exceeded the slow-statement threshold at least once.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowStatement {
    /// Normalized text: every value is replaced by `?`.
    pub statement: String,
    /// Number of slow executions.
    pub count: u64,
    /// Longest execution, in milliseconds.
    pub max_ms: f64,
    /// Time of the latest slow execution.
    pub last_at: Timestamp,
    /// Suggested improvement, if the query plan reads a whole table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Bounded log of slow statements. A full log drops the statement whose latest slow execution is oldest.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    by_statement: Mutex<HashMap<String, SlowStatement>>,
}

impl SlowLog {
    /// Records a slow execution. Returns true if the statement was not in the log before.
    pub(crate) fn record(&self, text: &str, duration: Duration, now: Timestamp) -> bool {
        let statement = normalize(text);
        let max_ms = duration.as_secs_f64() * 1e3;
        let mut by_statement = self.by_statement.lock();
        if let Some(known) = by_statement.get_mut(&statement) {
            known.count += 1;
            known.max_ms = known.max_ms.max(max_ms);
            known.last_at = now;
            return false;
        }
        if by_statement.len() >= CAPACITY
            && let Some(oldest) =
                by_statement.values().min_by_key(|known| known.last_at).map(|known| known.statement.clone())
        {
            by_statement.remove(&oldest);
        }
        let slow = SlowStatement { statement: statement.clone(), count: 1, max_ms, last_at: now, hint: None };
        by_statement.insert(statement, slow);
        true
    }

    pub(crate) fn set_hint(&self, text: &str, hint: String) {
        if let Some(known) = self.by_statement.lock().get_mut(&normalize(text)) {
            known.hint = Some(hint);
        }
    }

    /// Returns all statements, slowest first.
    pub(crate) fn list(&self) -> Vec<SlowStatement> {
        let mut list: Vec<_> = self.by_statement.lock().values().cloned().collect();
        list.sort_by(|a, b| b.max_ms.total_cmp(&a.max_ms));
        list
    }
}

/// Normalizes the text of a statement: literals and lists of literals become `?`, white space becomes one
/// space, words become lower case, comments are removed. Statements that differ only in these respects are
/// equal.
pub(crate) fn normalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim();
    while let Some(c) = rest.chars().next() {
        let consumed = match c {
            '\'' => {
                out.push('?');
                quoted_len(rest, '\'')
            }
            '"' => {
                let end = quoted_len(rest, '"');
                out.push_str(&rest[..end]);
                end
            }
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if c.is_whitespace() => {
                out.push(' ');
                rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len())
            }
            '$' | '?' => {
                out.push('?');
                1 + rest[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - 1)
            }
            _ if c.is_ascii_digit() => {
                out.push('?');
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
            }
            _ if c.is_alphabetic() || c == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                out.push_str(&rest[..end].to_lowercase());
                end
            }
            _ => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[consumed..];
    }
    // Lists of any length become equal.
    while out.contains("?, ?") {
        out = out.replace("?, ?", "?");
    }
    out
}

/// Returns the length in bytes of the quoted text at the start of `text`; a doubled quote does not end it.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return at + 1;
            }
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalization_ignores_values_case_white_space_and_comments() {
        assert_eq!(
            normalize("SELECT  a\n FROM T WHERE b = 'It''s  X' AND c = 3"),
            normalize("select a from t where b = 'other' and c = 12.5")
        );
        assert_eq!(normalize("SELECT a FROM t WHERE b IN ($1, $2, $3)"), "select a from t where b in (?)");
        assert_eq!(
            normalize("SELECT \"Big\" FROM t2 -- why\nWHERE x = $10"),
            "select \"Big\" from t2  where x = ?"
        );
    }

    /// The original system lower-cased values too, so different queries shared a batch.
    #[test]
    fn normalized_text_contains_no_values() {
        for secret in ["'secret'", "'a''secret'", "'secret"] {
            assert!(!normalize(&format!("SELECT 1 WHERE k = {secret}")).contains("secret"));
        }
    }

    #[test]
    fn the_log_is_bounded_and_counts_executions() {
        let log = SlowLog::default();
        for i in 0..500 {
            let now = Timestamp::from_second(i).unwrap();
            log.record(&format!("SELECT c{i} FROM t"), Duration::from_millis(i as u64), now);
        }
        assert_eq!(log.list().len(), CAPACITY);
        assert!(!log.record("select C499  from T", Duration::from_secs(1), Timestamp::now()));
        let slowest = &log.list()[0];
        assert_eq!(
            (slowest.statement.as_str(), slowest.count, slowest.max_ms),
            ("select c499 from t", 2, 1000.0)
        );
    }
}
