//! Controller of one scope: from changes in the watches to reconciles.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, stream};
use kube::{
    api::DynamicObject,
    runtime::{
        controller::{self, Controller},
        reflector::ObjectRef,
    },
};
use tokio::sync::watch;

use crate::{
    build::RESOURCE_LABEL,
    cluster_view::{ClusterView, Scope, WatchStreams},
    context::Context,
    reconcile::Reconciler,
    resource::resource_api,
};

/// Number of resources that are reconciled concurrently.
const CONCURRENCY: u16 = 16;

/// Runs a controller until `shutdown` is true and the reconciles in progress are finished.
pub async fn run(context: Arc<Context>, scope: &Scope, mut shutdown: watch::Receiver<bool>) {
    let (view, streams) = ClusterView::watch(&context.client, scope, context.build_options.service_monitors);
    let WatchStreams { resources, pods, owned } = streams;
    let mut controller = Controller::for_stream_with(resources, view.resources(), resource_api())
        .watches_stream(pods, |pod| {
            let labels = pod.metadata.labels.unwrap_or_default();
            let namespace = pod.metadata.namespace.unwrap_or_default();
            let name = labels.get(RESOURCE_LABEL).cloned();
            name.map(|name| ObjectRef::<DynamicObject>::new_with(&name, resource_api()).within(&namespace))
        })
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(async move {
            let _ = shutdown.wait_for(|shutdown| *shutdown).await;
        });
    for (kind, stream) in owned {
        controller = controller.owns_stream_with(stream, kind);
    }
    if let Some(held) = context.leadership.watch() {
        // Changes that came while another replica led were skipped here, so a new leader reconciles all.
        let acquired = stream::unfold(held, |mut held| async move {
            held.changed().await.ok()?;
            let is_held = *held.borrow_and_update();
            Some((is_held, held))
        });
        let acquired = acquired.filter(|is_held| std::future::ready(*is_held)).map(|_| ());
        controller = controller.reconcile_all_on(acquired);
    }
    let reconciler = Arc::new(Reconciler::new(context, view));
    let results = controller.run(
        |object, reconciler: Arc<Reconciler>| reconciler.reconcile(object).boxed(),
        |object, error, reconciler| reconciler.on_error(&object, error),
        reconciler,
    );
    // The reconciler has counted every result and logged every error.
    results.for_each(|_| std::future::ready(())).await;
}
