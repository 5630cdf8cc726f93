//! Middleware that counts, times and traces the requests of a service.
//!
//! Continues the trace of the `traceparent` header, puts an [`Exchange`] into the request's extensions and
//! sets `x-request-id` on the response. Knows neither the policy's source nor who the client is: both come
//! from [`RequestAccessors`].

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Extensions, HeaderName, HeaderValue, Request, Response};
use phase6_policy::Tracing;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Exchange, Telemetry, TraceContext, exchange::IncomingRequest, telemetry::TelemetryHandle};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Functions by which the middleware reads a request's properties from its extensions.
#[derive(Clone, Copy, Debug)]
pub struct RequestAccessors {
    /// Returns the tracing policy of the request. Without one, the request is counted but never traced.
    pub tracing: fn(&Extensions) -> Option<&Tracing>,
    /// Returns true if the sender may decide about sampling.
    pub trusted: fn(&Extensions) -> bool,
}

/// Layer that wraps services in [`RequestTelemetry`].
pub struct RequestTelemetryLayer {
    telemetry: TelemetryHandle,
    accessors: RequestAccessors,
}

impl Clone for RequestTelemetryLayer {
    /// Allocates a new outer `Arc` instead of sharing one: the stack is cloned for each connection, see
    /// `TelemetryHandle`.
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.telemetry), self.accessors)
    }
}

impl RequestTelemetryLayer {
    /// Creates a layer that reports to `telemetry`.
    pub fn new(telemetry: Arc<Telemetry>, accessors: RequestAccessors) -> Self {
        Self { telemetry: Arc::new(telemetry), accessors }
    }
}

impl<S> Layer<S> for RequestTelemetryLayer {
    type Service = RequestTelemetry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestTelemetry { inner, layer: self.clone() }
    }
}

/// A service whose requests are counted, timed and traced.
#[derive(Clone)]
pub struct RequestTelemetry<S> {
    inner: S,
    layer: RequestTelemetryLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequestTelemetry<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let RequestTelemetryLayer { telemetry, accessors } = &self.layer;
        let incoming = IncomingRequest {
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            request_id: request.headers().get(X_REQUEST_ID).filter(|id| is_valid_request_id(id)).cloned(),
        };
        let exchange = Exchange::start(
            telemetry,
            incoming,
            TraceContext::from_headers(request.headers()),
            (accessors.trusted)(request.extensions()),
            (accessors.tracing)(request.extensions()),
        );
        request.extensions_mut().insert(Arc::clone(&exchange));
        ResponseFuture { future: self.inner.call(request), exchange }
    }
}

/// Returns true if a client's request ID is short and printable. Others are ignored, because request IDs are
/// echoed and logged.
fn is_valid_request_id(id: &HeaderValue) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

pin_project! {
    /// Response future of [`RequestTelemetry`].
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        exchange: Arc<Exchange>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        this.exchange.finish(response.status());
        response.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| this.exchange.request_id());
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::StatusCode;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{KeepReason, Sampler, SpanStatus};

    const ACCESSORS: RequestAccessors = RequestAccessors {
        tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref),
        trusted: |_| false,
    };

    fn policy(sampling_rate: f64) -> Arc<Tracing> {
        Arc::new(Tracing { sampling_rate, ..Tracing::default() })
    }

    /// Sends a request through the layer to a handler that makes one outgoing call and responds with
    /// `status`.
    async fn send(
        telemetry: &Arc<Telemetry>,
        policy: Arc<Tracing>,
        status: u16,
        parent: Option<&str>,
    ) -> Response<()> {
        let service = RequestTelemetryLayer::new(Arc::clone(telemetry), ACCESSORS).layer(service_fn(
            move |request: Request<()>| async move {
                let exchange = request.extensions().get::<Arc<Exchange>>().unwrap();
                exchange.set_route(exchange.telemetry().metrics().route("/hello"));
                exchange
                    .start_call()
                    .end(SpanStatus::Ok, || ("GET peer".into(), vec![("server.address", "peer".into())]));
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, Infallible>(response)
            },
        ));
        let mut request = Request::new(());
        request.extensions_mut().insert(policy);
        if let Some(parent) = parent {
            request.headers_mut().insert("traceparent", parent.parse().unwrap());
        }
        service.oneshot(request).await.unwrap()
    }

    fn telemetry() -> Arc<Telemetry> {
        let telemetry = Telemetry::new("test", Sampler::new(1), None);
        telemetry.metrics().declare_routes(["/hello".to_owned()]);
        telemetry
    }

    #[tokio::test]
    async fn a_request_continues_the_trace_of_its_parent() {
        let telemetry = telemetry();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let response = send(&telemetry, policy(1.0), 200, Some(parent)).await;
        let spans = telemetry.recent_spans().newest(10);
        assert_eq!(spans[0].trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(spans[0].parent_span_id.unwrap().to_string(), "b7ad6b7169203331");
        assert_eq!(response.headers()["x-request-id"], "0af7651916cd43dd8448eb211c80319c");
    }

    #[tokio::test]
    async fn spans_have_a_name_a_status_and_their_parent() {
        let telemetry = telemetry();
        send(&telemetry, policy(1.0), 200, None).await;
        let spans = telemetry.recent_spans().newest(10);
        let (server, client) = (&spans[0], &spans[1]);
        assert_eq!((server.name.as_str(), server.status), ("GET /hello", SpanStatus::Ok));
        assert_eq!(client.name, "GET peer");
        assert_eq!(client.parent_span_id, Some(server.span_id));
        assert_eq!(client.trace_id, server.trace_id);
    }

    #[tokio::test]
    async fn failed_requests_are_kept_without_being_sampled() {
        let telemetry = telemetry();
        send(&telemetry, policy(0.0), 503, None).await;
        send(&telemetry, policy(0.0), 404, None).await;
        let spans = telemetry.recent_spans().newest(10);
        assert_eq!(spans.len(), 1);
        assert_eq!((spans[0].keep_reason, spans[0].status), (KeepReason::Error, SpanStatus::Error));
    }

    #[tokio::test]
    async fn slow_requests_are_kept_without_being_sampled() {
        let telemetry = telemetry();
        let every_request_is_slow = Tracing {
            sampling_rate: 0.0,
            keep_slower_than: phase6_policy::Duration::default(),
            ..Tracing::default()
        };
        send(&telemetry, Arc::new(every_request_is_slow), 200, None).await;
        assert_eq!(telemetry.recent_spans().newest(10)[0].keep_reason, KeepReason::Slow);
    }

    #[tokio::test]
    async fn a_request_without_a_policy_is_counted_but_not_traced() {
        let telemetry = telemetry();
        let accessors = RequestAccessors { tracing: |_| None, trusted: |_| true };
        let service = RequestTelemetryLayer::new(Arc::clone(&telemetry), accessors).layer(service_fn(
            |_: Request<()>| async {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok::<_, Infallible>(response)
            },
        ));
        let mut request = Request::new(());
        let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        request.headers_mut().insert("traceparent", parent);
        service.oneshot(request).await.unwrap();
        assert_eq!((telemetry.snapshot().total_requests, telemetry.recent_spans().recorded()), (1, 0));
    }

    #[tokio::test]
    async fn traffic_statistics_cover_sampled_and_unsampled_requests() {
        let telemetry = telemetry();
        for status in [200, 200, 200, 500] {
            send(&telemetry, policy(0.0), status, None).await;
        }
        let snapshot = telemetry.snapshot();
        assert_eq!(snapshot.total_requests, 4);
        assert_eq!(snapshot.active_traces, 0);
        assert!((snapshot.traffic.error_rate - 0.25).abs() < f64::EPSILON);
        assert!(snapshot.traffic.throughput > 0.0 && snapshot.traffic.avg_latency >= 0.0);
        assert_eq!(snapshot.total_traces, 1, "only the failed request is kept");
    }

    #[tokio::test]
    async fn a_request_whose_client_disconnects_is_no_longer_in_flight() {
        let telemetry = telemetry();
        let service = RequestTelemetryLayer::new(Arc::clone(&telemetry), ACCESSORS)
            .layer(service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>()));
        let mut request = Request::new(());
        request.extensions_mut().insert(policy(1.0));
        let waiting = service.oneshot(request);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), waiting).await.is_err());
        assert_eq!(telemetry.snapshot().active_traces, 0);
        assert!(telemetry.metrics().text().contains("phase6_http_requests_in_flight{service=\"test\"} 0"));
    }

    #[test]
    fn request_ids_of_clients_must_be_short_and_printable() {
        assert!(is_valid_request_id(&HeaderValue::from_static("req-1")));
        assert!(!is_valid_request_id(&HeaderValue::from_static("")));
        assert!(!is_valid_request_id(&HeaderValue::from_static("two words")));
        assert!(!is_valid_request_id(&HeaderValue::from_str(&"x".repeat(129)).unwrap()));
    }
}
