//! Query plans of slow statements, and the index that would speed a statement up.

use sqlx::{AnyPool, AssertSqlSafe, Row, SqlSafeStr, any::AnyRow};

use crate::{DatabaseUrl, slow::normalize};

/// Returns the lines of the generic plan of `statement`: the plan for unknown values.
pub(crate) async fn explain(
    url: &DatabaseUrl,
    pool: &AnyPool,
    statement: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let safe = |text: String| AssertSqlSafe(text).into_sql_str();
    match url {
        DatabaseUrl::Sqlite(_) => {
            let explain = sqlx::query(safe(format!("EXPLAIN QUERY PLAN {statement}")));
            explain.fetch_all(pool).await?.iter().map(|row| row.try_get("detail")).collect()
        }
        DatabaseUrl::Postgres(_) => {
            let values = (1..).take_while(|n| statement.contains(&format!("${n}"))).map(|_| "NULL");
            let values = values.collect::<Vec<_>>().join(", ");
            let arguments = if values.is_empty() { values } else { format!("({values})") };
            let mut tx = pool.begin().await?;
            for setup in [
                "SET LOCAL plan_cache_mode = force_generic_plan".to_owned(),
                format!("PREPARE phase6_plan AS {statement}"),
            ] {
                sqlx::raw_sql(safe(setup)).execute(&mut *tx).await?;
            }
            let explain = sqlx::raw_sql(safe(format!("EXPLAIN EXECUTE phase6_plan{arguments}")));
            let rows: Result<Vec<AnyRow>, _> = explain.fetch_all(&mut *tx).await;
            sqlx::raw_sql("DEALLOCATE phase6_plan").execute(&mut *tx).await?;
            tx.rollback().await?;
            rows?.iter().map(|row| row.try_get(0)).collect()
        }
    }
}

/// Suggests an improvement if the plan of a statement reads a whole table.
pub(crate) fn hint(statement: &str, plan: &[String]) -> Option<String> {
    let table = plan.iter().find_map(|line| scanned_table(line))?;
    let columns = filtered_columns(&normalize(statement));
    Some(if columns.is_empty() {
        format!("full scan of {table}; consider a condition or a LIMIT")
    } else {
        format!("full scan of {table}; consider an index on ({})", columns.join(", "))
    })
}

/// Returns the table that a plan line scans: `SCAN t` (SQLite), `Seq Scan on t` (PostgreSQL).
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

/// Returns the columns in the WHERE clause of a normalized statement.
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
    fn suggests_an_index_for_a_full_scan() {
        let suggested = hint(
            "SELECT * FROM budget_calls WHERE cohort = $1 AND at_ms > $2 ORDER BY at_ms",
            &["SCAN budget_calls".to_owned(), "USE TEMP B-TREE FOR ORDER BY".to_owned()],
        );
        assert_eq!(
            suggested.as_deref(),
            Some("full scan of budget_calls; consider an index on (cohort, at_ms)")
        );
        let suggested =
            hint("SELECT * FROM t", &["  ->  Seq Scan on t  (cost=0.00..1.01 rows=1)".to_owned()]);
        assert_eq!(suggested.as_deref(), Some("full scan of t; consider a condition or a LIMIT"));
        let indexed =
            ["SEARCH t USING INDEX t_a (a=?)".to_owned(), "SCAN t USING COVERING INDEX t_b".to_owned()];
        assert_eq!(hint("SELECT * FROM t WHERE a = 1", &indexed), None);
    }
}
