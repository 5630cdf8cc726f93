//! The start of a service: everything that is put around its definition.
//!
//! ```text
//! settings -> connect -> build routes -> assemble the stack -> run
//! ```

mod connect;
mod definition;
mod routes;
mod running;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use tokio::net::TcpListener;

use self::{connect::Connections, routes::Routes};
pub use self::{
    definition::{Definition, Host, Kit, Needs, StartError},
    running::Running,
};
use crate::{
    Enforcer,
    operations::{Registrar, ServiceState, register_jobs},
    server::{self, Shutdown},
    stack::{self, RateLimiter, Stack},
};

/// Starts a service on a listening socket.
///
/// # Errors
///
/// See [`StartError`]; nothing is left running.
pub async fn start(
    definition: &Definition,
    listener: TcpListener,
    host: &Host,
    enforcer: Enforcer,
) -> Result<Running, StartError> {
    let settings = definition.read_settings(&host.environment)?;
    let mut connections = Connections::open(definition, host, &enforcer).await?;
    let routes = Routes::build(definition, host, settings, &enforcer, &connections).await?;
    let limiter = RateLimiter::new(connections.limits.take());
    let state = state(definition, host, &routes, &enforcer, &connections);
    register(&state, &connections, &limiter);
    let stack = stack::assemble(stack::StackParts {
        name: definition.service.name,
        permissions: routes.permissions.clone(),
        router: routes.into_router(&state),
        enforcer,
        access: host.access.clone(),
        telemetry: Arc::clone(&connections.telemetry),
        limiter,
        cache: connections.cache.clone(),
        concurrency: Arc::clone(&state.concurrency),
        body: host.connections.body,
    });
    run(definition, listener, host, stack, state, connections)
}

/// Creates the state that the operational endpoints show.
fn state(
    definition: &Definition,
    host: &Host,
    routes: &Routes,
    enforcer: &Enforcer,
    connections: &Connections,
) -> Arc<ServiceState> {
    Arc::new(ServiceState {
        name: definition.service.name,
        version: host.version,
        domain: definition.domain,
        clock: host.clock.clone(),
        started: Instant::now(),
        is_ready: AtomicBool::new(true),
        telemetry: Arc::clone(&connections.telemetry),
        enforcer: enforcer.clone(),
        components: connections.components.clone(),
        jobs: connections.jobs.clone(),
        connections: Arc::default(),
        concurrency: Arc::default(),
        cache: connections.cache.clone(),
        openapi: routes.openapi.clone(),
        events: connections.events.clone(),
        keys: host.access.keys.clone(),
    })
}

/// Has every part of the service register its snapshot and its metric series.
fn register(state: &ServiceState, connections: &Connections, limiter: &RateLimiter) {
    let registrar = Registrar::new(&state.components, &state.telemetry);
    limiter.register(&registrar, &state.enforcer);
    stack::register_cache(&registrar, &state.enforcer, &state.cache);
    stack::register_telemetry(&registrar, &state.telemetry, connections.exporter.as_ref());
    state.enforcer.register(&registrar);
    state.connections.register(&registrar);
    state.concurrency.register(&registrar);
    state.components.register_series(&registrar);
    register_jobs(&registrar, &state.jobs);
    let events = connections.events.clone();
    registrar
        .gauge("phase6_event_subscribers", "Subscribers of live events", move || events.subscribers() as f64);
}

/// Begins to accept connections.
fn run(
    definition: &Definition,
    listener: TcpListener,
    host: &Host,
    stack: Stack,
    state: Arc<ServiceState>,
    connections: Connections,
) -> Result<Running, StartError> {
    let address = listener.local_addr().map_err(StartError::Listen)?;
    let shutdown = Shutdown::default();
    connections.tasks.spawn(server::serve(
        listener,
        move |peer| stack.for_peer(peer),
        host.connections.clone(),
        Arc::clone(&state.connections),
        shutdown.clone(),
    ));
    let Connections { store, cache, exporter, stop, tasks, stop_on_drop, .. } = connections;
    stop_on_drop.disarm();
    Ok(Running { definition: *definition, address, state, store, cache, exporter, shutdown, stop, tasks })
}
