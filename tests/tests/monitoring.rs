//! Metrics, alert rules and dashboards, checked with a real Prometheus.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use phase6_tests::{Collector, EXAMPLE, Fleet, Prometheus, Redis, root, services, wait_until};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const DASHBOARDS: [&str; 2] = ["phase6-fleet.json", "phase6-operator.json"];

fn chart(file: &str) -> String {
    std::fs::read_to_string(root().join("charts/phase6").join(file)).unwrap()
}

fn dashboard(file: &str) -> Value {
    serde_json::from_str(&chart(&format!("dashboards/{file}"))).unwrap()
}

/// Returns the panels of a dashboard, without the rows that group them.
fn panels(dashboard: &Value) -> Vec<Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

/// Returns every expression of a dashboard, with values for its variables.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets =
        panels(dashboard).into_iter().flat_map(|panel| panel["targets"].as_array().unwrap().clone());
    let substitute = |text: String| {
        let text = text.replace("$namespace", ".*").replace("$service", ".*");
        text.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$__interval", "30s")
    };
    targets.map(|target| substitute(target["expr"].as_str().unwrap().to_owned())).collect()
}

/// Returns the names of Phase6 metrics in a text, without the suffixes of histograms.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let names = words.filter(|word| word.starts_with("phase6_"));
    names
        .map(|word| {
            let end = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            end.unwrap_or(word).to_owned()
        })
        .collect()
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut process = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join("charts/phase6/rules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started; cargo xtask test installs it");
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
    text
}

#[test]
fn alerts_fire_in_their_test_cases_and_in_no_other() {
    promtool(&["check", "rules", "phase6.yaml"], "");
    let result = promtool(&["test", "rules", "phase6_test.yaml"], "");
    assert!(result.contains("SUCCESS"), "{result}");
    let (rules, cases) = (chart("rules/phase6.yaml"), chart("rules/phase6_test.yaml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(cases.contains(&firing), "{alert} fires in no test case");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Prometheus and the collector: run by cargo xtask test"]
async fn prometheus_scrapes_every_service_and_evaluates_every_rule_and_panel() {
    let (redis, collector) = (Redis::start(&[]), Collector::start());
    let url = format!("redis://127.0.0.1:{}", redis.port);
    let all_sampled = EXAMPLE.replace("samplingRate: 0.", "samplingRate: 1 # ");
    let fleet = Fleet::with(&all_sampled, &["--redis", &url, "--otlp", &collector.http_endpoint()], &[]);
    let ports: Vec<u16> = services().map(|service| fleet.port(service)).collect();
    let prometheus = Prometheus::start(&ports).await;

    // One trace, which the collector receives and the latency histogram has as an exemplar.
    let request = fleet.http.get(fleet.url("budget", "/api/v1/budget"));
    let response =
        request.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    wait_until("every service is scraped", || async {
        prometheus.query("up == 1").await.len() == services().count()
    })
    .await;
    let durations = "phase6_http_request_duration_seconds_bucket{service=\"budget\"}";
    let window = [("query", durations), ("start", "0"), ("end", "4102444800")];
    wait_until("the trace is an exemplar", || async {
        prometheus.api("query_exemplars", &window).await.to_string().contains(TRACE)
    })
    .await;
    wait_until("the collector has the trace", || async {
        collector.spans().iter().any(|received| received.span["traceId"] == TRACE)
    })
    .await;

    // Both exposition formats have the same series.
    let mut known = BTreeSet::new();
    for service in services() {
        let (_, text) = fleet.get(service, "/metrics").await;
        let Value::String(text) = text else { panic!("no metrics of {service}") };
        promtool(&["check", "metrics"], &text);
        known.extend(metric_names(&text));
        let request = fleet.http.get(fleet.url(service, "/metrics"));
        let response =
            request.header("accept", "application/openmetrics-text; version=1.0.0").send().await.unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap();
        assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
        let open_metrics = response.text().await.unwrap();
        assert!(open_metrics.ends_with("# EOF\n"));
        let samples = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.split_once(['{', ' ']).unwrap().0.to_owned()).collect::<BTreeSet<_>>()
        };
        assert_eq!(samples(&open_metrics), samples(&text), "{service}");
    }

    let rules = chart("rules/phase6.yaml");
    let rules: String = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let dashboards = DASHBOARDS.map(|file| chart(&format!("dashboards/{file}")));
    // The tests of the operator check the names of its metrics.
    let of_operator = |name: &String| {
        name.starts_with("phase6_operator_") || name.starts_with("phase6_policy_propagation_")
    };
    let used = metric_names(&(rules + &dashboards.concat()));
    let used: BTreeSet<_> = used.into_iter().filter(|name| !of_operator(name)).collect();
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "no service exposes {unknown:?}");

    let rules = async || prometheus.api("rules", &[]).await.to_string();
    wait_until("every rule is evaluated", || async {
        let rules = rules().await;
        rules.contains("\"health\":\"ok\"") && !rules.contains("\"health\":\"unknown\"")
    })
    .await;
    let rules = rules().await;
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
    for file in DASHBOARDS {
        for expression in expressions(&dashboard(file)) {
            prometheus.query(&expression).await;
        }
    }
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").await;
    assert!(firing.is_empty(), "alerts fire in a healthy fleet: {firing:?}");
}

#[test]
fn panels_of_the_dashboards_have_a_description_and_do_not_overlap() {
    for file in DASHBOARDS {
        let dashboard = dashboard(file);
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {}", panel["id"]);
            let position = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            for x in position("x")..position("x") + position("w") {
                assert!(x < 24, "{file}: {}", panel["title"]);
                for y in position("y")..position("y") + position("h") {
                    assert!(taken.insert((x, y)), "{file}: {} overlaps another panel", panel["title"]);
                }
            }
        }
        for panel in panels(&dashboard) {
            assert!(panel["description"].as_str().unwrap().len() > 20, "{file}: {}", panel["title"]);
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}: {}", panel["title"]);
        }
    }
}
