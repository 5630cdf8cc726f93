//! API keys of a running fleet: created, listed and revoked by commands and over HTTP, without a restart.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use phase6_tests::{ApiKey, CommandResult, EXAMPLE, Fleet, phase6, wait_until};
use serde_json::{Value, json};

const BUDGET: &str = "/api/v1/budget";

/// Runs `phase6 keys` against a fleet.
fn keys(fleet: &Fleet, arguments: &[&str], key: Option<&str>) -> CommandResult {
    let base_port = fleet.base_port.to_string();
    let mut all = [&["keys"], arguments, &["--base-port", &base_port]].concat();
    if let Some(key) = key {
        all.extend(["--api-key", key]);
    }
    phase6(&all)
}

/// Returns the ID and the secret that `phase6 keys create` has printed.
fn created(result: &CommandResult) -> (String, String) {
    assert_eq!(result.code, 0, "{result:?}");
    let field =
        |name: &str| result.output.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    (field("id:  "), field("key: "))
}

async fn status(fleet: &Fleet, service: &str, key: &str) -> u16 {
    let request = fleet.http.get(fleet.url(service, BUDGET)).header("x-api-key", key);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_first_key_closes_the_fleet_and_a_revoked_one_acts_nowhere() {
    let fleet = Fleet::with(EXAMPLE, &[], &[]);
    assert_eq!(fleet.get("budget", BUDGET).await.0, 200, "everybody is admitted");
    let refused = keys(&fleet, &["create", "bob"], None);
    assert!(refused.code == 1 && refused.errors.contains("accepted: the role admin"), "{refused:?}");
    let (admin_id, admin) = created(&keys(&fleet, &["create", "ada", "--role", "admin"], None));
    for service in ["web", "budget"] {
        wait_until("a request without a key is rejected", || async {
            fleet.get(service, BUDGET).await.0 == 401
        })
        .await;
        assert_eq!(status(&fleet, service, &admin).await, 200, "{service}");
    }
    let refused = keys(&fleet, &["create", "eve"], None);
    assert!(refused.code == 1 && refused.errors.contains("an API key is required"), "{refused:?}");

    let (member_id, member) = created(&keys(&fleet, &["create", "bob", "--tenant", "acme"], Some(&admin)));
    for service in ["web", "budget"] {
        wait_until("the key is accepted", || async { status(&fleet, service, &member).await == 200 }).await;
    }
    let refused = keys(&fleet, &["list"], Some(&member));
    assert!(refused.errors.contains("the role `member` may not do this; required: `admin`"), "{refused:?}");
    let listed = keys(&fleet, &["list"], Some(&admin));
    let rows: Vec<Vec<&str>> = listed.output.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = |id: &str| rows.iter().find(|row| row[0] == id).map(|row| row[1..4].join(" "));
    assert_eq!(row(&admin_id).as_deref(), Some("default ada admin"), "{listed:?}");
    assert_eq!(row(&member_id).as_deref(), Some("acme bob member"), "{listed:?}");

    assert_eq!(
        keys(&fleet, &["revoke", &member_id], Some(&admin)).output.trim(),
        format!("revoked {member_id}")
    );
    for service in ["web", "budget"] {
        wait_until("the key is rejected", || async { status(&fleet, service, &member).await == 401 }).await;
    }
    let refused = keys(&fleet, &["list"], Some(&member));
    assert!(refused.errors.contains("the API key is not accepted: --api-key KEY"), "{refused:?}");
    let unknown = keys(&fleet, &["revoke", &member_id], Some(&admin));
    assert!(unknown.code == 1 && unknown.errors.contains("no key has the ID"), "{unknown:?}");
    let logs = format!("{}{}", fleet.program.output(), fleet.program.errors());
    assert!(!logs.contains(&admin) && !logs.contains(&member), "a log contains a key");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn keys_are_managed_over_http_within_the_tenant_of_the_admin() {
    let fleet = Fleet::with(EXAMPLE, &["--only", "web,budget"], &[]);
    let post = async |key: &str, body: Value| {
        let request = fleet.http.post(fleet.url("budget", "/api/v1/keys")).header("x-api-key", key);
        let response = request.json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (code, fleet_admin) = post("", json!({"role": "admin", "name": "ada"})).await;
    assert!(code == 200 && fleet_admin["ok"] == true, "{fleet_admin}");
    let fleet_admin = text(&fleet_admin["key"]);
    let (_, acme) = post(&fleet_admin, json!({"tenant": "acme", "role": "admin", "name": "bob"})).await;
    let (acme_id, acme) = (text(&acme["id"]), text(&acme["key"]));

    let (code, error) = post(&acme, json!({"tenant": "other", "role": "reader", "name": "eve"})).await;
    assert_eq!((code, &error["error"]["code"]), (403, &json!("forbidden")), "{error}");
    let (code, own) = post(&acme, json!({"role": "reader", "name": "carol"})).await;
    assert_eq!(code, 200, "the tenant of the caller is the default: {own}");
    for (body, field) in [
        (json!({"role": "owner", "name": "x"}), "role"),
        (json!({"role": "reader", "name": "a b"}), "name"),
        (json!({"role": "reader", "name": "x", "tenant": ""}), "tenant"),
        (json!({"role": "reader", "name": "anonymous"}), "name"),
        (json!({"role": "reader"}), "name"),
        (json!({"role": "reader", "name": "x", "scope": "all"}), "scope"),
    ] {
        let (code, error) = post(&acme, body).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert!(code == 400 && message.contains(field), "{error}");
        assert_eq!(error["error"]["fields"][0]["pointer"], format!("/{field}"), "{error}");
    }

    let list = async |key: &str, query: &str| {
        let url = fleet.url("budget", &format!("/api/v1/keys{query}"));
        fleet.http.get(url).header("x-api-key", key).send().await.unwrap().json::<Value>().await.unwrap()
    };
    assert_eq!(list(&acme, "").await["items"].as_array().unwrap().len(), 2, "the keys of the tenant");
    let mut names = vec![];
    let mut query = "?limit=2".to_owned();
    loop {
        let page = list(&fleet_admin, &query).await;
        names.extend(page["items"].as_array().unwrap().iter().map(|item| text(&item["name"])));
        assert!(!page.to_string().contains("sha256"), "{page}");
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    names.sort_unstable();
    assert_eq!(names, ["ada", "bob", "carol"]);

    let delete = async |key: &str, id: &str| {
        let url = fleet.url("budget", &format!("/api/v1/keys/{id}"));
        fleet.http.delete(url).header("x-api-key", key).send().await.unwrap().status().as_u16()
    };
    let all = list(&fleet_admin, "").await;
    let ada = all["items"].as_array().unwrap().iter().find(|item| item["name"] == "ada").unwrap();
    assert_eq!(delete(&acme, &text(&ada["id"])).await, 404, "a key of another tenant");
    assert_eq!(delete(&fleet_admin, &acme_id).await, 200);
    assert_eq!(list(&acme, "").await["error"]["code"], "unauthorized");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_key_file_is_edited_by_commands_and_followed_by_the_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let first = ApiKey::generate("ada", "admin");
    std::fs::write(&file, format!("# the team\n{}", first.line)).unwrap();
    let path = file.to_str().unwrap();
    let fleet = Fleet::with(EXAMPLE, &["--only", "budget", "--api-keys", path], &[]);
    assert_eq!(status(&fleet, "budget", &first.key).await, 200);
    assert_eq!(fleet.get("budget", BUDGET).await.0, 401);

    let (id, second) = created(&phase6(&["keys", "create", "bob", "--role", "reader", "--file", path]));
    wait_until("the added key is accepted", || async { status(&fleet, "budget", &second).await == 200 })
        .await;
    let listed = phase6(&["keys", "list", "--file", path]).output;
    assert!(listed.lines().any(|line| line.starts_with(&id) && line.contains("bob")), "{listed}");
    let refused = keys(&fleet, &["revoke", &id], Some(&first.key));
    assert!(
        refused.code == 1 && refused.errors.contains("is in the key file; remove its line"),
        "{refused:?}"
    );
    assert_eq!(phase6(&["keys", "revoke", &id, "--file", path]).code, 0);
    wait_until("the removed key is rejected", || async { status(&fleet, "budget", &second).await == 401 })
        .await;
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("# the team\n"));
    assert_eq!(fleet.stop(), Some(0));
}

#[test]
fn invalid_values_of_the_commands_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let path = file.to_str().unwrap();
    for (arguments, code, expected) in [
        (vec!["create", "a b", "--file", path], 2, "NAME: \"a b\" is not a name; accepted: 1 to 64"),
        (
            vec!["create", "ada", "--role", "owner", "--file", path],
            2,
            "--role: \"owner\" is not a role; accepted",
        ),
        (vec!["create", "ada", "--tenant", "", "--file", path], 2, "--tenant: \"\" is not a name; accepted"),
        (vec!["create", "anonymous", "--file", path], 2, "reserved for callers without credentials"),
        (vec!["list", "--file", path], 1, "does not exist"),
        (vec!["revoke", "../x"], 2, "accepted: an ID as `phase6 keys list` shows it"),
        (vec!["list", "--base-port", "1"], 1, "no service is running at 127.0.0.1:1"),
    ] {
        let result = phase6(&[&["keys"], &arguments[..]].concat());
        assert!(result.code == code && result.errors.contains(expected), "{arguments:?}: {result:?}");
    }
    assert!(!file.exists(), "an invalid command writes nothing");
}
