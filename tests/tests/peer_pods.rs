//! Pods of a peer that start and stop, as an API server reports them: which pods the gateway calls, and how
//! calls in flight end.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use phase6_tests::{ApiServer, Gateway, PodState, Upstream, wait_until};
use serde_json::{Value, json};

/// Host name of the peer `budget`. It resolves to one of the upstreams, as the name of a Service resolves to
/// its cluster address.
const SERVICE: &str = "localhost";

/// A gateway that follows the pods of its peer.
struct Harness {
    api: ApiServer,
    /// The server behind the name of the Service.
    service: Upstream,
    pods: Vec<Upstream>,
    gateway: Gateway,
}

impl Harness {
    /// Starts the servers of `count` pods, none of which the API server knows yet.
    async fn start(count: usize, api: ApiServer) -> Self {
        let service = Upstream::start().await;
        let pods = join_all((0..count).map(|_| Upstream::start())).await;
        let environment = [("PHASE6_FOLLOW_PEERS", "true"), ("KUBECONFIG", api.kubeconfig())];
        let endpoint = format!("{SERVICE}:{}", service.address.port());
        let gateway = Gateway::start(&[endpoint], json!({}), &environment).await;
        Self { api, service, pods, gateway }
    }

    fn set(&self, pod: usize, state: PodState) {
        self.api.set_pod(SERVICE, self.pods[pod].address, state);
    }

    fn remove(&self, pod: usize) {
        self.api.remove_pod(SERVICE, self.pods[pod].address);
    }

    /// Waits until the endpoints of the peer are these pods, and no others.
    async fn wait_for_pods(&self, pods: &[usize]) {
        let addresses: BTreeSet<_> = pods.iter().map(|pod| self.pods[*pod].address.to_string()).collect();
        wait_until("the gateway calls these pods", || async {
            self.gateway.budget_addresses().await == addresses
        })
        .await;
    }

    /// Waits until the only endpoint of the peer is the name of the Service.
    async fn wait_for_service_name(&self) {
        let name: BTreeSet<_> = [format!("{SERVICE}:{}", self.service.address.port())].into();
        wait_until("the gateway calls the Service", || async {
            self.gateway.budget_addresses().await == name
        })
        .await;
    }

    /// Sends requests one after another. Returns how many each pod received.
    async fn send(&self, requests: usize) -> Vec<usize> {
        let before: Vec<_> = self.pods.iter().map(|pod| pod.requests().len()).collect();
        for _ in 0..requests {
            assert_eq!(self.gateway.get("/api/v1/budget").await.unwrap().status(), 200);
        }
        self.pods.iter().zip(before).map(|(pod, before)| pod.requests().len() - before).collect()
    }
}

#[tokio::test]
async fn a_new_pod_gets_its_share_and_a_draining_one_gets_no_new_request() {
    let harness = Harness::start(3, ApiServer::start().await).await;
    harness.set(0, PodState::Ready);
    harness.set(1, PodState::Ready);
    harness.set(2, PodState::Starting);
    harness.wait_for_pods(&[0, 1]).await;
    // A pod whose first response was slow gets fewer requests until it is tried again.
    wait_until("both ready pods get their share", || async {
        let shares = harness.send(60).await;
        assert_eq!(shares[2], 0, "{shares:?}");
        shares[0] >= 10 && shares[1] >= 10
    })
    .await;
    assert_eq!(harness.service.requests().len(), 0, "the name of the Service is still called");

    harness.set(2, PodState::Ready);
    harness.wait_for_pods(&[0, 1, 2]).await;
    wait_until("the new pod gets requests", || async { harness.send(20).await[2] > 0 }).await;

    harness.set(0, PodState::Draining);
    harness.wait_for_pods(&[1, 2]).await;
    let shares = harness.send(60).await;
    assert_eq!(shares[0], 0, "{shares:?}");
    harness.remove(0);
    assert_eq!(harness.send(20).await[0], 0);
}

#[tokio::test]
async fn a_request_in_flight_at_a_stopping_pod_completes() {
    let harness = Harness::start(2, ApiServer::start().await).await;
    harness.set(0, PodState::Ready);
    harness.wait_for_pods(&[0]).await;
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl".to_vec();
    let second = Duration::from_secs(1);
    harness.pods[0].respond_with(vec![(second, head), (second, b"ow".to_vec())]);
    let request = tokio::spawn(harness.gateway.http.get(harness.gateway.url("/api/v1/budget")).send());
    wait_until("the request is in flight", || async { harness.pods[0].requests().len() == 1 }).await;
    harness.set(1, PodState::Ready);
    harness.set(0, PodState::Stopped);
    harness.wait_for_pods(&[1]).await;
    let response = request.await.unwrap().unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "slow"));
    assert_eq!(harness.send(10).await, [0, 10]);
}

#[tokio::test]
async fn the_state_of_a_pod_survives_changes_of_other_pods() {
    let harness = Harness::start(2, ApiServer::start().await).await;
    harness.set(0, PodState::Ready);
    harness.wait_for_pods(&[0]).await;
    harness.send(7).await;
    harness.set(1, PodState::Ready);
    harness.wait_for_pods(&[0, 1]).await;
    let report: Value =
        harness.gateway.get("/api/v1/system/observability").await.unwrap().json().await.unwrap();
    let (old, new) = (harness.pods[0].address.to_string(), harness.pods[1].address.to_string());
    let calls = |address: &str| &report["circuitBreakers"][format!("budget@{address}")]["callCount"];
    assert_eq!((calls(&old), calls(&new)), (&json!(7), &json!(0)), "{report}");
    let endpoints = report["peers"]["budget"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2, "{endpoints:?}");
    assert!(endpoints.iter().all(|endpoint| endpoint["inFlight"] == 0), "{endpoints:?}");
    // A label per pod would add series without a bound, because the addresses of pods keep changing.
    let metrics = harness.gateway.get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"phase6_circuit_breaker_open{peer="budget",service="web"} 0"#), "{metrics}");
    let endpoints = r#"phase6_peer_endpoints{peer="budget",health="unhealthy",service="web"} 0"#;
    assert!(metrics.contains(endpoints), "{metrics}");
    assert!(!metrics.contains(&old), "the address of a pod is a label");
}

#[tokio::test]
async fn without_rights_to_watch_the_service_name_is_called() {
    let api = ApiServer::start().await;
    api.set_forbidden(true);
    let harness = Harness::start(1, api).await;
    harness.set(0, PodState::Ready);
    assert_eq!(harness.send(10).await, [0]);
    assert_eq!(harness.service.requests().len(), 10);
    harness.api.set_forbidden(false);
    harness.wait_for_pods(&[0]).await;
    assert_eq!(harness.send(10).await, [10]);
}

#[tokio::test]
async fn the_last_endpoints_stay_in_use_while_the_api_server_is_down() {
    let mut harness = Harness::start(3, ApiServer::start().await).await;
    harness.set(0, PodState::Ready);
    harness.set(1, PodState::Ready);
    harness.wait_for_pods(&[0, 1]).await;
    harness.api.stop();
    wait_until("the gateway logs that the watch failed", || async {
        harness.gateway.program.errors().contains("failed to watch")
    })
    .await;
    let shares = harness.send(40).await;
    assert_eq!(shares[0] + shares[1], 40, "{shares:?}");
    harness.set(0, PodState::Draining);
    harness.set(2, PodState::Ready);
    harness.api.restart().await;
    harness.wait_for_pods(&[1, 2]).await;
    assert_eq!(harness.send(20).await[0], 0);
}

#[tokio::test]
async fn without_a_ready_pod_requests_fail_at_once_and_without_a_slice_the_service_name_is_called() {
    let harness = Harness::start(1, ApiServer::start().await).await;
    harness.set(0, PodState::Ready);
    harness.wait_for_pods(&[0]).await;
    harness.set(0, PodState::Starting);
    harness.wait_for_pods(&[]).await;
    let start = Instant::now();
    let response = harness.gateway.get("/api/v1/budget").await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "upstream_unavailable");
    harness.remove(0);
    harness.wait_for_service_name().await;
    harness.send(3).await;
    assert_eq!(harness.service.requests().len(), 3);
}
