//! Empty databases for tests, one per test.
//!
//! PostgreSQL databases are created on the server named by `PHASE6_TEST_POSTGRES`, which `cargo xtask test`
//! starts. Tests that need it are marked `#[ignore]`.

use crate::{DatabaseUrl, PoolLimits, Store, sql};

/// Database engine that a test runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file in a temporary folder.
    Sqlite,
    /// A database on the test server.
    Postgres,
}

/// An empty database.
pub struct TestDatabase {
    /// Address of the database.
    pub url: DatabaseUrl,
    /// Temporary folder of a SQLite file; removed on drop.
    _folder: Option<tempfile::TempDir>,
}

impl TestDatabase {
    /// Creates an empty database.
    ///
    /// # Panics
    ///
    /// The database cannot be created, or `PHASE6_TEST_POSTGRES` is unset.
    pub async fn create(kind: Kind) -> Self {
        if kind == Kind::Sqlite {
            let folder = tempfile::tempdir().expect("a temporary folder");
            // The folders of the file do not exist yet: connecting creates them.
            let url = DatabaseUrl::file(folder.path().join("nested/folder/test.db"));
            return Self { url, _folder: Some(folder) };
        }
        let server = std::env::var("PHASE6_TEST_POSTGRES").expect("PHASE6_TEST_POSTGRES names a server");
        let url = |name: &str| format!("{server}/{name}").parse::<DatabaseUrl>().expect("a database URL");
        let admin = Store::connect(&url("postgres"), PoolLimits::default()).await.expect("a test server");
        let name = format!("test_{:x}_{:032x}", std::process::id(), random());
        sql(format!("CREATE DATABASE {name}")).run(&admin).await.expect("permission to create databases");
        admin.close().await;
        Self { url: url(&name), _folder: None }
    }

    /// Returns the address with its credentials, for the environment of another process.
    pub fn connect_string(&self) -> String {
        self.url.connect_string()
    }
}

fn random() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let now = std::time::SystemTime::now();
    let hash = || u128::from(RandomState::new().hash_one(now));
    hash() << 64 | hash()
}

/// Defines each function as two tests of its name: `sqlite::NAME` and `postgres::NAME`.
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
