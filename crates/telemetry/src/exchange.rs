//! One request and its response: trace context, timing, and the outgoing calls made on its behalf.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode, uri::PathAndQuery};
use phase6_policy::Tracing;

use crate::{
    RouteId, Telemetry, TraceContext,
    labels::METHODS,
    span::{ActiveSpan, AttributeValue, Attributes, KeepReason, SpanEnd, SpanKind, SpanStatus},
    telemetry::TelemetryHandle,
};

/// Maximum length of the path in a span's attributes, in bytes. Clients choose the path, and with it how much
/// memory it would take.
const MAX_PATH_BYTES: usize = 1_024;

tokio::task_local! {
    static CURRENT: Arc<Exchange>;
}

/// A request and its response on their way through a service. Found in the request's extensions and, inside a
/// handler, with [`Exchange::current`].
pub struct Exchange {
    telemetry: TelemetryHandle,
    span: ActiveSpan,
    keep_errors: bool,
    keep_slower_than: Duration,
    method: Method,
    /// Target of the request. Only its path is ever recorded: a query may hold secrets.
    target: Option<PathAndQuery>,
    request_id: Option<HeaderValue>,
    route: AtomicU16,
    finished: AtomicBool,
}

/// Head of an incoming request, as far as its exchange needs it.
pub(crate) struct IncomingRequest {
    pub(crate) method: Method,
    pub(crate) target: Option<PathAndQuery>,
    pub(crate) request_id: Option<HeaderValue>,
}

impl Exchange {
    /// Starts an exchange. The sampling decision of `parent` is followed if `trusted`. Without a policy the
    /// request is counted but never traced.
    pub(crate) fn start(
        telemetry: &TelemetryHandle,
        request: IncomingRequest,
        parent: Option<TraceContext>,
        trusted: bool,
        policy: Option<&Tracing>,
    ) -> Arc<Self> {
        let started = Instant::now();
        let IncomingRequest { method, target, request_id } = request;
        let context = telemetry.trace_context(parent, trusted, policy);
        if context.sampled {
            telemetry.active_traces.fetch_add(1, Ordering::Relaxed);
        }
        telemetry.metrics().requests().start();
        Arc::new(Self {
            telemetry: Arc::clone(telemetry),
            span: ActiveSpan { context, parent: parent.map(|parent| parent.span_id), started },
            keep_errors: policy.is_some_and(|policy| policy.keep_errors),
            keep_slower_than: policy.map_or(Duration::MAX, |policy| policy.keep_slower_than.get()),
            method,
            target,
            request_id,
            route: AtomicU16::new(RouteId::UNMATCHED.get()),
            finished: AtomicBool::new(false),
        })
    }

    /// Returns the exchange that the current task belongs to.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs `work` as part of this exchange: [`Exchange::current`] returns it inside.
    pub fn scope<F: Future>(self: Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// Returns the trace context of the request.
    pub fn context(&self) -> &TraceContext {
        &self.span.context
    }

    /// Returns the request ID that the client sent, or the trace ID if it sent none.
    pub fn request_id(&self) -> HeaderValue {
        self.request_id.clone().unwrap_or_else(|| self.context().trace_id.to_header())
    }

    /// Sets the declared route that the request matched.
    pub fn set_route(&self, route: RouteId) {
        self.route.store(route.get(), Ordering::Relaxed);
    }

    /// Returns the declared route that the request matched.
    pub fn route(&self) -> RouteId {
        RouteId::from(self.route.load(Ordering::Relaxed))
    }

    /// Returns the telemetry of the service.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Starts an outgoing call on behalf of the request.
    pub fn start_call(self: &Arc<Self>) -> OutgoingCall {
        OutgoingCall {
            span: ActiveSpan {
                context: self.context().child(),
                parent: Some(self.context().span_id),
                started: Instant::now(),
            },
            exchange: Arc::clone(self),
        }
    }

    /// Counts the response, and records a span if the trace is sampled or the policy keeps it. Only the first
    /// call has an effect.
    pub(crate) fn finish(&self, status: StatusCode) {
        if self.finished.load(Ordering::Relaxed) {
            return;
        }
        self.finished.store(true, Ordering::Relaxed);
        let telemetry = &self.telemetry;
        let now = Instant::now();
        let duration = now.duration_since(self.span.started);
        let failed = status.is_server_error();
        let sampled_trace = self.context().sampled.then_some(self.context().trace_id);
        telemetry.metrics().requests().finish(self.route(), &self.method, status, duration, sampled_trace);
        telemetry.traffic.record(duration, failed, now.duration_since(telemetry.epoch).as_nanos() as u64);
        let keep_reason = if self.context().sampled {
            telemetry.active_traces.fetch_sub(1, Ordering::Relaxed);
            KeepReason::Sampled
        } else if failed && self.keep_errors {
            KeepReason::Error
        } else if duration > self.keep_slower_than {
            KeepReason::Slow
        } else {
            return;
        };
        let mut attributes = Attributes::with_capacity(5);
        attributes.push(("http.response.status_code", status.into()));
        if failed {
            attributes.push(("error.type", status.as_str().to_owned().into()));
        }
        let status = if failed { SpanStatus::Error } else { SpanStatus::Ok };
        self.record_span(duration, status, keep_reason, attributes);
    }

    fn record_span(
        &self,
        duration: Duration,
        status: SpanStatus,
        keep_reason: KeepReason,
        mut attributes: Attributes,
    ) {
        let route = self.telemetry.metrics().template(self.route());
        attributes.push(("http.request.method", AttributeValue::Text(method_name(&self.method))));
        attributes.push(("http.route", route.to_owned().into()));
        if let Some(target) = &self.target {
            attributes.push(("url.path", truncated(target.path()).to_owned().into()));
        }
        let name = [self.method.as_str(), " ", route].concat();
        let end = SpanEnd { name, kind: SpanKind::Server, duration, status, keep_reason, attributes };
        self.telemetry.record_span(self.span.finish(end));
    }
}

impl Drop for Exchange {
    /// Handles a client that disconnected before the response: the request is no longer in flight.
    fn drop(&mut self) {
        if !*self.finished.get_mut() {
            self.telemetry.metrics().requests().abandon();
            if self.context().sampled {
                self.telemetry.active_traces.fetch_sub(1, Ordering::Relaxed);
                // Recorded so that the spans of outgoing calls have their parent in the trace.
                let duration = self.span.started.elapsed();
                let attributes = vec![("error.type", "client_disconnected".into())];
                self.record_span(duration, SpanStatus::Error, KeepReason::Sampled, attributes);
            }
        }
    }
}

/// An outgoing call on behalf of a request.
#[must_use = "a call is recorded when it ends"]
pub struct OutgoingCall {
    exchange: Arc<Exchange>,
    span: ActiveSpan,
}

impl OutgoingCall {
    /// Returns the trace context to send with the call, so that the remote side's spans join the trace.
    pub fn context(&self) -> &TraceContext {
        &self.span.context
    }

    /// Ends the call and records its span if the trace is sampled. `describe` returns the span's name and
    /// attributes; it runs only if the span is recorded.
    pub fn end(self, status: SpanStatus, describe: impl FnOnce() -> (String, Attributes)) {
        if self.span.context.sampled {
            let (name, attributes) = describe();
            let end = SpanEnd {
                name,
                kind: SpanKind::Client,
                duration: self.span.started.elapsed(),
                status,
                keep_reason: KeepReason::Sampled,
                attributes,
            };
            self.exchange.telemetry.record_span(self.span.finish(end));
        }
    }
}

/// Returns the name of a method, without an allocation for the methods that have a label.
fn method_name(method: &Method) -> Cow<'static, str> {
    let known = METHODS.into_iter().find(|known| *known == method.as_str());
    known.map_or_else(|| method.to_string().into(), Cow::Borrowed)
}

fn truncated(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH_BYTES)]
}
