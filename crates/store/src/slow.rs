//! Statements that took long: by their text without values, with a hint when the plan scans.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

/// Different statements remembered.
const REMEMBERED: usize = 100;

/// A statement that took longer than the threshold at least once.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowStatement {
    /// Its text with every value replaced by `?`.
    pub statement: String,
    /// How often it took long.
    pub count: u64,
    /// The longest time, in milliseconds.
    pub max_ms: f64,
    /// When it last took long.
    pub last_at: Timestamp,
    /// What would help, if its plan reads a whole table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Slow statements; the one that has been quiet longest makes room.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    by_statement: Mutex<HashMap<String, SlowStatement>>,
}

impl SlowLog {
    /// Takes note; true if the statement is new, so that its plan is worth a look.
    pub(crate) fn note(&self, text: &str, took: Duration, now: Timestamp) -> bool {
        let statement = normalise(text);
        let max_ms = took.as_secs_f64() * 1e3;
        let mut by_statement = self.by_statement.lock();
        if let Some(known) = by_statement.get_mut(&statement) {
            known.count += 1;
            known.max_ms = known.max_ms.max(max_ms);
            known.last_at = now;
            return false;
        }
        if by_statement.len() >= REMEMBERED
            && let Some(quietest) =
                by_statement.values().min_by_key(|known| known.last_at).map(|known| known.statement.clone())
        {
            by_statement.remove(&quietest);
        }
        let slow = SlowStatement { statement: statement.clone(), count: 1, max_ms, last_at: now, hint: None };
        by_statement.insert(statement, slow);
        true
    }

    pub(crate) fn hint(&self, text: &str, hint: String) {
        if let Some(known) = self.by_statement.lock().get_mut(&normalise(text)) {
            known.hint = Some(hint);
        }
    }

    /// The slowest first.
    pub(crate) fn list(&self) -> Vec<SlowStatement> {
        let mut list: Vec<_> = self.by_statement.lock().values().cloned().collect();
        list.sort_by(|a, b| b.max_ms.total_cmp(&a.max_ms));
        list
    }
}

/// The text of a statement without its values: literals become `?`, white space is one space,
/// words are lower-case. Two statements that differ in nothing else are the same.
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim();
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\'' => {
                out.push('?');
                quoted(rest, '\'')
            }
            '"' => {
                let end = quoted(rest, '"');
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
        rest = &rest[taken..];
    }
    // A list of any length is one list.
    while out.contains("?, ?") {
        out = out.replace("?, ?", "?");
    }
    out
}

/// Length of a quoted text at the start of `text`; a doubled quote does not end it.
fn quoted(text: &str, quote: char) -> usize {
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

/// What would help, from the lines of a plan.
pub(crate) fn hint(statement: &str, plan: &[String]) -> Option<String> {
    let table = plan.iter().find_map(|line| scanned_table(line))?;
    let columns = filtered_columns(&normalise(statement));
    Some(if columns.is_empty() {
        format!("reads all of {table}; a condition or a LIMIT would help")
    } else {
        format!("reads all of {table}; an index on ({}) would help", columns.join(", "))
    })
}

/// The table that a line of a plan reads as a whole: `SCAN t` (SQLite), `Seq Scan on t`
/// (PostgreSQL).
fn scanned_table(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("->").trim();
    let name = if let Some(rest) = line.strip_prefix("SCAN ") {
        if rest.contains("USING") || rest.contains("CONSTANT ROW") {
            return None;
        }
        rest
    } else {
        line.split_once("Seq Scan on ")?.1
    };
    name.split_whitespace().next()
}

/// The columns that a normalised statement compares in its WHERE clause.
fn filtered_columns(statement: &str) -> Vec<String> {
    let Some((_, conditions)) = statement.split_once(" where ") else { return vec![] };
    let end = [" group by ", " order by ", " limit ", " returning "]
        .iter()
        .filter_map(|word| conditions.find(word))
        .min()
        .unwrap_or(conditions.len());
    let mut columns = Vec::new();
    for condition in conditions[..end].split(" and ").flat_map(|part| part.split(" or ")) {
        let column = condition.trim().trim_start_matches('(');
        let column = column.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').next();
        let column = column.and_then(|column| column.rsplit('.').next()).unwrap_or_default();
        if !column.is_empty() && !column.starts_with(|c: char| c.is_ascii_digit()) {
            columns.push(column.to_owned());
        }
    }
    columns.dedup();
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_normalization_works() {
        assert_eq!(
            normalise("SELECT  a\n FROM T WHERE b = 'It''s  X' AND c = 3"),
            normalise("select a from t where b = 'other' and c = 12.5")
        );
        assert_eq!(normalise("SELECT a FROM t WHERE b IN ($1, $2, $3)"), "select a from t where b in (?)");
        assert_eq!(
            normalise("SELECT \"Big\" FROM t2 -- why\nWHERE x = $10"),
            "select \"Big\" from t2  where x = ?"
        );
    }

    /// The original lower-cased values too, so that differing queries shared a batch.
    #[test]
    fn values_never_stand_in_the_text() {
        for secret in ["'secret'", "'a''secret'", "'secret"] {
            assert!(!normalise(&format!("SELECT 1 WHERE k = {secret}")).contains("secret"));
        }
    }

    #[test]
    fn optimizer_identifies_issues() {
        let found = hint(
            "SELECT * FROM budget_calls WHERE cohort = $1 AND at_ms > $2 ORDER BY at_ms",
            &["SCAN budget_calls".to_owned(), "USE TEMP B-TREE FOR ORDER BY".to_owned()],
        );
        assert_eq!(
            found.as_deref(),
            Some("reads all of budget_calls; an index on (cohort, at_ms) would help")
        );
        let found = hint("SELECT * FROM t", &["  ->  Seq Scan on t  (cost=0.00..1.01 rows=1)".to_owned()]);
        assert_eq!(found.as_deref(), Some("reads all of t; a condition or a LIMIT would help"));
        let indexed =
            ["SEARCH t USING INDEX t_a (a=?)".to_owned(), "SCAN t USING COVERING INDEX t_b".to_owned()];
        assert_eq!(hint("SELECT * FROM t WHERE a = 1", &indexed), None);
    }

    #[test]
    fn the_log_is_bounded_and_counts() {
        let log = SlowLog::default();
        for i in 0..500 {
            let now = Timestamp::from_second(i).unwrap();
            log.note(&format!("SELECT c{i} FROM t"), Duration::from_millis(i as u64), now);
        }
        assert_eq!(log.list().len(), REMEMBERED);
        assert!(!log.note("select C499  from T", Duration::from_secs(1), Timestamp::now()));
        let slowest = &log.list()[0];
        assert_eq!(
            (slowest.statement.as_str(), slowest.count, slowest.max_ms),
            ("select c499 from t", 2, 1000.0)
        );
    }
}
