//! A peer's pods come and go, as an API server tells it: who is called, and what becomes of the calls
//! under way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use phase6_tests::{ApiServer, Gateway, Stands, Upstream, until};
use serde_json::{Value, json};

/// The Service of the budget peer. Its name leads to one of the upstreams, as a cluster's DNS would to
/// whichever it takes.
const SERVICE: &str = "localhost";

struct Stage {
    api: ApiServer,
    /// Where the Service's name leads.
    named: Upstream,
    pods: Vec<Upstream>,
    gateway: Gateway,
}

impl Stage {
    /// A gateway that follows the pods of its peer, of which there are none yet.
    async fn with(count: usize, api: ApiServer) -> Self {
        let named = Upstream::start().await;
        let pods = join_all((0..count).map(|_| Upstream::start())).await;
        let settings = [("PHASE6_FOLLOW_PEERS", "true"), ("KUBECONFIG", api.kubeconfig())];
        let at = format!("{SERVICE}:{}", named.address.port());
        let gateway = Gateway::start(&[at], json!({}), &settings).await;
        Self { api, named, pods, gateway }
    }

    fn stands(&self, pod: usize, stands: Stands) {
        self.api.pod(SERVICE, self.pods[pod].address, stands);
    }

    /// Waits until these pods are called, and no others.
    async fn calls(&self, wanted: &[usize]) {
        let wanted: BTreeSet<_> = wanted.iter().map(|pod| self.pods[*pod].address.to_string()).collect();
        until("the gateway knows it", || async { self.gateway.called().await == wanted }).await;
    }

    async fn calls_the_name(&self) {
        let name: BTreeSet<_> = [format!("{SERVICE}:{}", self.named.address.port())].into();
        until("the gateway calls the Service", || async { self.gateway.called().await == name }).await;
    }

    /// Sends requests one after another, and tells how many each pod got.
    async fn shares(&self, requests: usize) -> Vec<usize> {
        let before: Vec<_> = self.pods.iter().map(|pod| pod.seen().len()).collect();
        for _ in 0..requests {
            assert_eq!(self.gateway.get("/api/v1/budget").await.unwrap().status(), 200);
        }
        self.pods.iter().zip(before).map(|(pod, before)| pod.seen().len() - before).collect()
    }
}

#[tokio::test]
async fn a_new_pod_gets_its_share_and_one_that_leaves_gets_nothing_more() {
    let stage = Stage::with(3, ApiServer::start().await).await;
    stage.stands(0, Stands::Ready);
    stage.stands(1, Stands::Ready);
    stage.stands(2, Stands::Starting);
    stage.calls(&[0, 1]).await;
    // One that was slow to answer the first time gets less until it is tried again.
    until("both that are ready get their share", || async {
        let shares = stage.shares(60).await;
        assert_eq!(shares[2], 0, "{shares:?}");
        shares[0] >= 10 && shares[1] >= 10
    })
    .await;
    assert_eq!(stage.named.seen().len(), 0, "the Service itself is not called any more");

    stage.stands(2, Stands::Ready);
    stage.calls(&[0, 1, 2]).await;
    until("the new one gets some", || async { stage.shares(20).await[2] > 0 }).await;

    stage.stands(0, Stands::Leaving);
    stage.calls(&[1, 2]).await;
    let shares = stage.shares(60).await;
    assert_eq!(shares[0], 0, "{shares:?}");
    stage.api.without(SERVICE, stage.pods[0].address);
    assert_eq!(stage.shares(20).await[0], 0);
}

#[tokio::test]
async fn what_is_under_way_at_a_pod_that_leaves_ends_as_it_would_have() {
    let stage = Stage::with(2, ApiServer::start().await).await;
    stage.stands(0, Stands::Ready);
    stage.calls(&[0]).await;
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl".to_vec();
    let second = Duration::from_secs(1);
    stage.pods[0].script(vec![(second, head), (second, b"ow".to_vec())]);
    let under_way = tokio::spawn(stage.gateway.http.get(stage.gateway.url("/api/v1/budget")).send());
    until("it is under way", || async { stage.pods[0].seen().len() == 1 }).await;
    stage.stands(1, Stands::Ready);
    stage.stands(0, Stands::Gone);
    stage.calls(&[1]).await;
    let answer = under_way.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "slow"));
    assert_eq!(stage.shares(10).await, [0, 10]);
}

#[tokio::test]
async fn what_is_known_of_a_pod_outlives_a_change_of_the_others() {
    let stage = Stage::with(2, ApiServer::start().await).await;
    stage.stands(0, Stands::Ready);
    stage.calls(&[0]).await;
    stage.shares(7).await;
    stage.stands(1, Stands::Ready);
    stage.calls(&[0, 1]).await;
    let shown: Value = stage.gateway.get("/api/v1/system/observability").await.unwrap().json().await.unwrap();
    let (kept, new) = (stage.pods[0].address.to_string(), stage.pods[1].address.to_string());
    let calls = |address: &str| &shown["circuitBreakers"][format!("budget@{address}")]["callCount"];
    assert_eq!((calls(&kept), calls(&new)), (&json!(7), &json!(0)), "{shown}");
    let endpoints = shown["peers"]["budget"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2, "{endpoints:?}");
    assert!(endpoints.iter().all(|endpoint| endpoint["inFlight"] == 0), "{endpoints:?}");
    // Pods come and go for ever, and series stay.
    let metrics = stage.gateway.get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"phase6_circuit_breaker_open{peer="budget",service="web"} 0"#), "{metrics}");
    let endpoints = r#"phase6_peer_endpoints{peer="budget",health="unhealthy",service="web"} 0"#;
    assert!(metrics.contains(endpoints), "{metrics}");
    assert!(!metrics.contains(&kept), "an address is no label");
}

#[tokio::test]
async fn without_rights_the_service_itself_is_called() {
    let api = ApiServer::start().await;
    api.refuses(true);
    let stage = Stage::with(1, api).await;
    stage.stands(0, Stands::Ready);
    assert_eq!(stage.shares(10).await, [0]);
    assert_eq!(stage.named.seen().len(), 10);
    stage.api.refuses(false);
    stage.calls(&[0]).await;
    assert_eq!(stage.shares(10).await, [10]);
}

#[tokio::test]
async fn the_last_list_stays_while_the_api_server_is_gone_and_the_next_one_counts() {
    let mut stage = Stage::with(3, ApiServer::start().await).await;
    stage.stands(0, Stands::Ready);
    stage.stands(1, Stands::Ready);
    stage.calls(&[0, 1]).await;
    stage.api.gone();
    until("the gateway notices", || async { stage.gateway.program.errors().contains("cannot watch") }).await;
    let shares = stage.shares(40).await;
    assert_eq!(shares[0] + shares[1], 40, "{shares:?}");
    stage.stands(0, Stands::Leaving);
    stage.stands(2, Stands::Ready);
    stage.api.back().await;
    stage.calls(&[1, 2]).await;
    assert_eq!(stage.shares(20).await[0], 0);
}

#[tokio::test]
async fn a_service_without_a_pod_is_answered_for_at_once_and_without_a_slice_it_is_called_itself() {
    let stage = Stage::with(1, ApiServer::start().await).await;
    stage.stands(0, Stands::Ready);
    stage.calls(&[0]).await;
    stage.stands(0, Stands::Starting);
    stage.calls(&[]).await;
    let asked = Instant::now();
    let answer = stage.gateway.get("/api/v1/budget").await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    let told: Value = answer.json().await.unwrap();
    assert_eq!(told["error"]["code"], "upstream_unavailable");
    stage.api.without(SERVICE, stage.pods[0].address);
    stage.calls_the_name().await;
    stage.shares(3).await;
    assert_eq!(stage.named.seen().len(), 3);
}
