//! One service's telemetry, and what it knows of a request on its way.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode, uri::PathAndQuery};
use parking_lot::Mutex;
use phase6_policy::Tracing;
use serde::Serialize;

use crate::{
    Metrics, Recorder, RouteId, Sampler, Sink, Span, SpanId, TraceContext,
    context::new_ids,
    routes::METHODS,
    sample::Pace,
    span::{Attribute, Attributes, Kept, Kind, Running, Status},
    traffic::{Figures, Traffic},
};

/// Spans kept in memory for a look at them. More would only push what requests need out of the processor's caches.
const KEPT_SPANS: usize = 20;

/// The telemetry of one service.
pub struct Telemetry {
    metrics: Metrics,
    recorder: Recorder,
    /// Where finished spans go beside the memory of the newest.
    export: Option<Arc<dyn Sink>>,
    traffic: Traffic,
    pace: Mutex<Pace>,
    sampler: Sampler,
    /// The rate that was used last, as bits of a float.
    rate: AtomicU64,
    active: AtomicU64,
    epoch: Instant,
}

/// What the tracer shows. Latencies are milliseconds; figures are of the last minute and of all
/// requests, sampled or not.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TracerSnapshot {
    /// Requests on their way whose trace is sampled.
    pub active_traces: u64,
    /// Spans recorded since the start.
    pub total_traces: u64,
    /// Requests answered since the start.
    pub total_requests: u64,
    /// Latency, throughput and error rate.
    #[serde(flatten)]
    pub figures: Figures,
    /// The sampling rate in force now.
    pub sampling_rate: f64,
    /// The newest spans.
    pub spans: Vec<Span>,
}

impl Telemetry {
    /// Telemetry for a service; its routes are declared with [`Metrics::declare`]. Finished spans are
    /// shown here, and given to `export`.
    pub fn new(service: &str, sampler: Sampler, export: Option<Arc<dyn Sink>>) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(service),
            export,
            recorder: Recorder::new(KEPT_SPANS),
            traffic: Traffic::default(),
            pace: Mutex::default(),
            sampler,
            rate: AtomicU64::new(0),
            active: AtomicU64::new(0),
            epoch: Instant::now(),
        })
    }

    /// The service's Prometheus series.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The newest spans.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Takes a finished span.
    fn keep(&self, span: Span) {
        if let Some(export) = &self.export {
            export.record(&span);
        }
        self.recorder.record(span);
    }

    /// The sampling rate in force now: what the policy says, or less where it names a target.
    pub fn sampling_rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Ordering::Relaxed))
    }

    /// What the tracer shows.
    pub fn snapshot(&self) -> TracerSnapshot {
        TracerSnapshot {
            active_traces: self.active.load(Ordering::Relaxed),
            total_traces: self.recorder.recorded(),
            total_requests: self.metrics.totals().0,
            figures: self.traffic.figures(self.now_ns()),
            sampling_rate: self.sampling_rate(),
            spans: self.recorder.newest(KEPT_SPANS),
        }
    }

    /// The place of a request in its trace: the sender's if it belongs to one, or else a new one. Not sampled
    /// without a policy.
    pub fn place(
        &self,
        parent: Option<TraceContext>,
        trusted: bool,
        policy: Option<&Tracing>,
    ) -> TraceContext {
        let (trace_id, span_id) = match &parent {
            Some(parent) => (parent.trace_id, SpanId::random()),
            None => new_ids(),
        };
        let sampled = policy.is_some_and(|policy| {
            self.sampler.sampled(trace_id, parent.as_ref(), trusted, self.rate(policy))
        });
        TraceContext { trace_id, span_id, sampled }
    }

    /// Begins a request. `trusted` says whether the sender of `parent` may decide about sampling. One
    /// without a policy is counted, and leaves no trace.
    pub(crate) fn begin(
        telemetry: &Handle,
        parent: Option<TraceContext>,
        trusted: bool,
        policy: Option<&Tracing>,
        (method, path): (Method, Option<PathAndQuery>),
        request_id: Option<HeaderValue>,
    ) -> Arc<Exchange> {
        let started = Instant::now();
        let context = telemetry.place(parent, trusted, policy);
        if context.sampled {
            telemetry.active.fetch_add(1, Ordering::Relaxed);
        }
        telemetry.metrics.requests().begin();
        Arc::new(Exchange {
            telemetry: Arc::clone(telemetry),
            running: Running { context, parent: parent.map(|parent| parent.span_id), started },
            keep_errors: policy.is_some_and(|policy| policy.keep_errors),
            keep_slower_than: policy.map_or(Duration::MAX, |policy| policy.keep_slower_than.get()),
            method,
            path,
            request_id,
            route: AtomicU16::new(RouteId::UNMATCHED.get()),
            ended: AtomicBool::new(false),
        })
    }

    /// The rate for one more request.
    fn rate(&self, policy: &Tracing) -> f64 {
        let target = policy.target_spans_per_second.map(|target| target as f64);
        let rate = match target {
            None => policy.sampling_rate,
            Some(_) => self.pace.lock().rate(policy.sampling_rate, target, self.now_ns()),
        };
        // Read by all threads, and so written only when it is another one.
        if self.rate.load(Ordering::Relaxed) != rate.to_bits() {
            self.rate.store(rate.to_bits(), Ordering::Relaxed);
        }
        rate
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// Telemetry with a count of holders of one connection's own: all requests would fight for one count.
pub(crate) type Handle = Arc<Arc<Telemetry>>;

/// A request on its way through a service. In the request's extensions, and for the handler in
/// [`Exchange::current`].
pub struct Exchange {
    telemetry: Handle,
    running: Running,
    keep_errors: bool,
    keep_slower_than: Duration,
    method: Method,
    /// Without what follows a `?`: it may hold a secret.
    path: Option<PathAndQuery>,
    request_id: Option<HeaderValue>,
    route: AtomicU16,
    ended: AtomicBool,
}

tokio::task_local! {
    static CURRENT: Arc<Exchange>;
}

impl Exchange {
    /// The request that the running task answers.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs `work` as part of this request.
    pub fn scope<F: Future>(self: Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// The request's place in its trace.
    pub fn context(&self) -> &TraceContext {
        &self.running.context
    }

    /// The id that the client gave the request, or else the trace's.
    pub fn request_id(&self) -> HeaderValue {
        self.request_id.clone().unwrap_or_else(|| self.context().trace_id.to_header())
    }

    /// Tells which declared route answers.
    pub fn set_route(&self, route: RouteId) {
        self.route.store(route.get(), Ordering::Relaxed);
    }

    /// The declared route that answers.
    pub fn route(&self) -> RouteId {
        RouteId::from(self.route.load(Ordering::Relaxed))
    }

    /// The telemetry of the service that answers.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Begins a call to somebody else.
    pub fn call(self: &Arc<Self>) -> OutgoingCall {
        OutgoingCall {
            running: Running {
                context: self.context().child(),
                parent: Some(self.context().span_id),
                started: Instant::now(),
            },
            exchange: Arc::clone(self),
        }
    }

    pub(crate) fn end(&self, status: StatusCode) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        self.ended.store(true, Ordering::Relaxed);
        let telemetry = &self.telemetry;
        let now = Instant::now();
        let took = now.duration_since(self.running.started);
        let failed = status.is_server_error();
        let sampled = self.context().sampled.then_some(self.context().trace_id);
        telemetry.metrics.requests().end(self.route(), &self.method, status, took, sampled);
        telemetry.traffic.record(took, failed, now.duration_since(telemetry.epoch).as_nanos() as u64);
        let kept = if self.context().sampled {
            telemetry.active.fetch_sub(1, Ordering::Relaxed);
            Kept::Sampled
        } else if failed && self.keep_errors {
            Kept::Error
        } else if took > self.keep_slower_than {
            Kept::Slow
        } else {
            return;
        };
        let mut attributes = Attributes::with_capacity(5);
        attributes.push(("http.response.status_code", status.into()));
        if failed {
            attributes.push(("error.type", status.as_str().to_owned().into()));
        }
        self.keep(took, if failed { Status::Error } else { Status::Ok }, kept, attributes);
    }

    fn keep(&self, took: Duration, status: Status, kept: Kept, mut attributes: Attributes) {
        let metrics = &self.telemetry.metrics;
        let route = metrics.template(self.route());
        attributes.push(("http.request.method", Attribute::Text(text_of(&self.method))));
        attributes.push(("http.route", route.to_owned().into()));
        if let Some(path) = &self.path {
            attributes.push(("url.path", start_of(path.path()).to_owned().into()));
        }
        let name = [self.method.as_str(), " ", route].concat();
        self.telemetry.keep(self.running.finish(took, name, Kind::Server, (status, kept), attributes));
    }
}

/// The method's name; of those that have a label it is there already.
fn text_of(method: &Method) -> Cow<'static, str> {
    let known = METHODS.into_iter().find(|known| *known == method.as_str());
    known.map_or_else(|| method.to_string().into(), Cow::Borrowed)
}

/// As much of a path as a span keeps: whoever asks decides how long it is.
fn start_of(path: &str) -> &str {
    const LONGEST: usize = 1_024;
    &path[..path.floor_char_boundary(LONGEST)]
}

impl Drop for Exchange {
    /// A request whose client went away before the answer is no longer in flight.
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            self.telemetry.metrics.requests().abandon();
            if self.context().sampled {
                self.telemetry.active.fetch_sub(1, Ordering::Relaxed);
                // What was done for it must not hang in the trace without its reason.
                let took = self.running.started.elapsed();
                self.keep(took, Status::Error, Kept::Sampled, vec![("error.type", "client_gone".into())]);
            }
        }
    }
}

/// A call to somebody else, on behalf of a request.
#[must_use = "a call is recorded when it ends"]
pub struct OutgoingCall {
    exchange: Arc<Exchange>,
    running: Running,
}

impl OutgoingCall {
    /// What to send along, so that the other side's spans join the trace.
    pub fn context(&self) -> &TraceContext {
        &self.running.context
    }

    /// Ends it. `describe` gives name and attributes, and is asked only when the span is recorded.
    pub fn end(self, status: Status, describe: impl FnOnce() -> (String, Attributes)) {
        if self.running.context.sampled {
            let (name, attributes) = describe();
            let took = self.running.started.elapsed();
            let span = self.running.finish(took, name, Kind::Client, (status, Kept::Sampled), attributes);
            self.exchange.telemetry.keep(span);
        }
    }
}
