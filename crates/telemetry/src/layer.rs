//! Telemetry around a service: context in, figures and spans out.

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

use crate::{Exchange, Telemetry, TraceContext, record::Handle};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_REQUEST_ID: usize = 128;

/// What the layer asks of each request.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The sampling in force for it; none: it is counted, and leaves no trace.
    pub tracing: fn(&Extensions) -> Option<&Tracing>,
    /// Whether its sender may decide about sampling.
    pub trusted: fn(&Extensions) -> bool,
}

/// Makes [`Traced`] services.
pub struct TelemetryLayer {
    telemetry: Handle,
    ask: Ask,
}

impl Clone for TelemetryLayer {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.telemetry), self.ask)
    }
}

impl TelemetryLayer {
    /// A layer that reports to `telemetry`.
    pub fn new(telemetry: Arc<Telemetry>, ask: Ask) -> Self {
        Self { telemetry: Arc::new(telemetry), ask }
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced { inner, layer: self.clone() }
    }
}

/// A service whose requests are traced and counted.
#[derive(Clone)]
pub struct Traced<S> {
    inner: S,
    layer: TelemetryLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Traced<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TracedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let TelemetryLayer { telemetry, ask } = &self.layer;
        let exchange = Telemetry::begin(
            telemetry,
            TraceContext::from_headers(request.headers()),
            (ask.trusted)(request.extensions()),
            (ask.tracing)(request.extensions()),
            (request.method().clone(), request.uri().path_and_query().cloned()),
            request.headers().get(X_REQUEST_ID).filter(|id| sensible(id)).cloned(),
        );
        request.extensions_mut().insert(Arc::clone(&exchange));
        TracedFuture { future: self.inner.call(request), exchange }
    }
}

/// Ids from outside are echoed and logged, so they are short and printable.
fn sensible(id: &HeaderValue) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

pin_project! {
    /// The answer of a traced service.
    pub struct TracedFuture<F> {
        #[pin]
        future: F,
        exchange: Arc<Exchange>,
    }
}

impl<F, ResBody, E> Future for TracedFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.future.poll(cx))?;
        this.exchange.end(answer.status());
        answer.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| this.exchange.request_id());
        Poll::Ready(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::StatusCode;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::Sampler;
    use crate::{Kept, Status};

    const ASK: Ask =
        Ask { tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref), trusted: |_| false };

    fn policy(sampling_rate: f64) -> Arc<Tracing> {
        Arc::new(Tracing { sampling_rate, ..Tracing::default() })
    }

    async fn ask(
        telemetry: &Arc<Telemetry>,
        policy: Arc<Tracing>,
        status: u16,
        parent: Option<&str>,
    ) -> Response<()> {
        let service = TelemetryLayer::new(Arc::clone(telemetry), ASK).layer(service_fn(
            move |request: Request<()>| async move {
                let exchange = request.extensions().get::<Arc<Exchange>>().unwrap();
                exchange.set_route(exchange.telemetry().metrics().route("/hello"));
                exchange
                    .call()
                    .end(Status::Ok, || ("GET peer".into(), vec![("server.address", "peer".into())]));
                let mut answer = Response::new(());
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, Infallible>(answer)
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
        telemetry.metrics().declare(["/hello".to_owned()]);
        telemetry
    }

    #[tokio::test]
    async fn trace_starts_with_ids_and_joins_its_parent() {
        let telemetry = telemetry();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let answer = ask(&telemetry, policy(1.0), 200, Some(parent)).await;
        let spans = telemetry.recorder().newest(10);
        assert_eq!(spans[0].trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(spans[0].parent_span_id.unwrap().to_string(), "b7ad6b7169203331");
        assert_eq!(answer.headers()["x-request-id"], "0af7651916cd43dd8448eb211c80319c");
    }

    #[tokio::test]
    async fn a_trace_has_its_child_spans_names_and_status() {
        let telemetry = telemetry();
        ask(&telemetry, policy(1.0), 200, None).await;
        let spans = telemetry.recorder().newest(10);
        let (server, client) = (&spans[0], &spans[1]);
        assert_eq!((server.name.as_str(), server.status), ("GET /hello", Status::Ok));
        assert_eq!(client.name, "GET peer");
        assert_eq!(client.parent_span_id, Some(server.span_id));
        assert_eq!(client.trace_id, server.trace_id);
    }

    #[tokio::test]
    async fn errors_are_kept_although_not_sampled() {
        let telemetry = telemetry();
        ask(&telemetry, policy(0.0), 503, None).await;
        ask(&telemetry, policy(0.0), 404, None).await;
        let spans = telemetry.recorder().newest(10);
        assert_eq!(spans.len(), 1);
        assert_eq!((spans[0].kept, spans[0].status), (Kept::Error, Status::Error));
    }

    #[tokio::test]
    async fn slow_requests_are_kept_although_not_sampled() {
        let telemetry = telemetry();
        let all_are_slow = Tracing {
            sampling_rate: 0.0,
            keep_slower_than: phase6_policy::Duration::default(),
            ..Tracing::default()
        };
        ask(&telemetry, Arc::new(all_are_slow), 200, None).await;
        assert_eq!(telemetry.recorder().newest(10)[0].kept, Kept::Slow);
    }

    #[tokio::test]
    async fn what_is_not_to_be_traced_is_counted_and_leaves_nothing() {
        let telemetry = telemetry();
        let ask = Ask { tracing: |_| None, trusted: |_| true };
        let service =
            TelemetryLayer::new(Arc::clone(&telemetry), ask).layer(service_fn(|_: Request<()>| async {
                let mut answer = Response::new(());
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok::<_, Infallible>(answer)
            }));
        let mut request = Request::new(());
        let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        request.headers_mut().insert("traceparent", parent);
        service.oneshot(request).await.unwrap();
        assert_eq!((telemetry.snapshot().total_requests, telemetry.recorder().recorded()), (1, 0));
    }

    #[tokio::test]
    async fn figures_count_every_request_sampled_or_not() {
        let telemetry = telemetry();
        for status in [200, 200, 200, 500] {
            ask(&telemetry, policy(0.0), status, None).await;
        }
        let shown = telemetry.snapshot();
        assert_eq!(shown.total_requests, 4);
        assert_eq!(shown.active_traces, 0);
        assert!((shown.figures.error_rate - 0.25).abs() < f64::EPSILON);
        assert!(shown.figures.throughput > 0.0 && shown.figures.avg_latency >= 0.0);
        assert_eq!(shown.total_traces, 1, "the failed one");
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_is_no_longer_in_flight() {
        let telemetry = telemetry();
        let service = TelemetryLayer::new(Arc::clone(&telemetry), ASK)
            .layer(service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>()));
        let mut request = Request::new(());
        request.extensions_mut().insert(policy(1.0));
        let waiting = service.oneshot(request);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), waiting).await.is_err());
        assert_eq!(telemetry.snapshot().active_traces, 0);
        assert!(telemetry.metrics().text().contains("phase6_http_requests_in_flight{service=\"test\"} 0"));
    }

    #[test]
    fn request_ids_from_outside_are_short_and_printable() {
        assert!(sensible(&HeaderValue::from_static("req-1")));
        assert!(!sensible(&HeaderValue::from_static("")));
        assert!(!sensible(&HeaderValue::from_static("two words")));
        assert!(!sensible(&HeaderValue::from_str(&"x".repeat(129)).unwrap()));
    }
}
