//! Databases for tests: one of its own for each test.
//!
//! A PostgreSQL server is named by `PHASE6_TEST_POSTGRES`; `cargo xtask test` starts one. Tests that
//! need it are marked `#[ignore]` with that reason.

use crate::{DatabaseUrl, PoolLimits, Store, sql};

/// Which database a test is run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file in a folder of its own.
    Sqlite,
    /// A database of its own on the test server.
    Postgres,
}

/// An empty database.
pub struct Fresh {
    /// Where it is.
    pub url: DatabaseUrl,
    /// Removed when dropped.
    _folder: Option<tempfile::TempDir>,
}

/// Makes an empty database.
///
/// # Panics
///
/// It cannot be made, or `PHASE6_TEST_POSTGRES` names no server.
pub async fn fresh(kind: Kind) -> Fresh {
    if kind == Kind::Sqlite {
        let folder = tempfile::tempdir().expect("a folder for a test");
        let url = DatabaseUrl::file(folder.path().join("deep/er/test.db"));
        return Fresh { url, _folder: Some(folder) };
    }
    let server = std::env::var("PHASE6_TEST_POSTGRES").expect("PHASE6_TEST_POSTGRES names a server");
    let url = |name: &str| format!("{server}/{name}").parse::<DatabaseUrl>().expect("an address");
    let admin = Store::connect(&url("postgres"), PoolLimits::default()).await.expect("a test server");
    let name = format!("test_{:x}", std::process::id()) + &format!("_{:032x}", unique());
    sql(format!("CREATE DATABASE {name}")).run(&admin).await.expect("a database for a test");
    admin.close().await;
    Fresh { url: url(&name), _folder: None }
}

fn unique() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let now = std::time::SystemTime::now();
    let hash = || u128::from(RandomState::new().hash_one(now));
    hash() << 64 | hash()
}

/// Runs each function against both databases, as tests of their names.
#[macro_export]
macro_rules! on_both_databases {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::testing::Kind::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs PostgreSQL: run by cargo xtask test"]
            async fn $name() {
                super::$name($crate::testing::Kind::Postgres).await;
            })*
        }
    };
}
