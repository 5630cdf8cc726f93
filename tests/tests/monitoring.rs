//! What Prometheus and Grafana make of what the services show, and of what the chart brings for them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use phase6_tests::{Collector, EXAMPLE, Fleet, Prometheus, Redis, root, services, until};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const DASHBOARDS: [&str; 2] = ["phase6-fleet.json", "phase6-operator.json"];

fn chart(file: &str) -> String {
    std::fs::read_to_string(root().join("charts/phase6").join(file)).unwrap()
}

fn dashboard(file: &str) -> Value {
    serde_json::from_str(&chart(&format!("dashboards/{file}"))).unwrap()
}

/// Panels that show something.
fn panels(dashboard: &Value) -> Vec<Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

/// Every expression of a dashboard, with what a user could have chosen.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets =
        panels(dashboard).into_iter().flat_map(|panel| panel["targets"].as_array().unwrap().clone());
    let chosen = |text: String| {
        let text = text.replace("$namespace", ".*").replace("$service", ".*");
        text.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$__interval", "30s")
    };
    targets.map(|target| chosen(target["expr"].as_str().unwrap().to_owned())).collect()
}

/// Every series of ours that a text names, without what histograms append.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = words.filter(|word| word.starts_with("phase6_"));
    ours.map(|word| {
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
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8(told).unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {told}");
    told
}

#[test]
fn the_rules_of_the_chart_call_when_they_should_and_stay_silent_else() {
    promtool(&["check", "rules", "phase6.yaml"], "");
    let told = promtool(&["test", "rules", "phase6_test.yaml"], "");
    assert!(told.contains("SUCCESS"), "{told}");
    // Each alert is heard in some story.
    let (rules, stories) = (chart("rules/phase6.yaml"), chart("rules/phase6_test.yaml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let heard = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(stories.contains(&heard), "no story hears {alert}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_every_service_and_understands_every_rule_and_panel() {
    let (redis, collector) = (Redis::start(&[]), Collector::start());
    let url = format!("redis://127.0.0.1:{}", redis.port);
    let all = EXAMPLE.replace("samplingRate: 0.", "samplingRate: 1 # ");
    let fleet = Fleet::with(&all, &["--redis", &url, "--otlp", &collector.over_http()], &[]);
    let ports: Vec<u16> = services().map(|service| fleet.port(service)).collect();
    let prometheus = Prometheus::start(&ports).await;

    // One trace that is told of in its log line, in the answer, by the collector and beside the figures.
    let request = fleet.http.get(fleet.url("budget", "/api/v1/budget"));
    let answer =
        request.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    until("every service is read", || async {
        prometheus.query("up == 1").await.len() == services().count()
    })
    .await;
    let durations = "phase6_http_request_duration_seconds_bucket{service=\"budget\"}";
    let window = [("query", durations), ("start", "0"), ("end", "4102444800")];
    until("the trace is an exemplar", || async {
        prometheus.ask("query_exemplars", &window).await.to_string().contains(TRACE)
    })
    .await;
    until("the collector has it", || async {
        collector.heard().iter().any(|heard| heard.span["traceId"] == TRACE)
    })
    .await;

    // Both formats say the same, by the same names.
    let mut known = BTreeSet::new();
    for service in services() {
        let (_, text) = fleet.get(service, "/metrics").await;
        let Value::String(text) = text else { panic!("no metrics of {service}") };
        promtool(&["check", "metrics"], &text);
        known.extend(named(&text));
        let newer = fleet.http.get(fleet.url(service, "/metrics"));
        let newer =
            newer.header("accept", "application/openmetrics-text; version=1.0.0").send().await.unwrap();
        assert!(
            newer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text")
        );
        let newer = newer.text().await.unwrap();
        assert!(newer.ends_with("# EOF\n"));
        let samples = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.split_once(['{', ' ']).unwrap().0.to_owned()).collect::<BTreeSet<_>>()
        };
        assert_eq!(samples(&newer), samples(&text), "{service}");
    }

    let rules = chart("rules/phase6.yaml");
    let rules: String = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let dashboards = DASHBOARDS.map(|file| chart(&format!("dashboards/{file}")));
    // The operator's are held against the operator, in its own tests.
    let of_operator = |name: &String| {
        name.starts_with("phase6_operator_") || name.starts_with("phase6_policy_propagation_")
    };
    let wanted: BTreeSet<_> =
        named(&(rules + &dashboards.concat())).into_iter().filter(|name| !of_operator(name)).collect();
    let unknown: Vec<_> = wanted.difference(&known).collect();
    assert!(unknown.is_empty(), "nobody shows {unknown:?}");

    until("every rule has been tried", || async {
        let told = prometheus.ask("rules", &[]).await.to_string();
        told.contains("\"health\":\"ok\"") && !told.contains("\"health\":\"unknown\"")
    })
    .await;
    let told = prometheus.ask("rules", &[]).await.to_string();
    assert!(!told.contains("\"health\":\"err\""), "{told}");
    for file in DASHBOARDS {
        for expression in expressions(&dashboard(file)) {
            prometheus.query(&expression).await;
        }
    }
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").await;
    assert!(firing.is_empty(), "all is well, and yet: {firing:?}");
}

#[test]
fn panels_of_the_dashboards_say_what_they_are_for_and_lie_side_by_side() {
    for file in DASHBOARDS {
        let dashboard = dashboard(file);
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {}", panel["id"]);
            let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                assert!(x < 24, "{file}: {}", panel["title"]);
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{file}: {} lies on another", panel["title"]);
                }
            }
        }
        for panel in panels(&dashboard) {
            assert!(panel["description"].as_str().unwrap().len() > 20, "{file}: {}", panel["title"]);
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}: {}", panel["title"]);
        }
    }
}
