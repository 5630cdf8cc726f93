//! The running services of `phase6 up`, each with its manifest and its policy document.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phase6_catalog::{SERVICES, Service, ServiceName};
use phase6_chassis::{Host, Running, start};
use phase6_live::Live;
use phase6_manifest::Manifest;
use phase6_policy::{Policy, PolicyDocument};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{Id, JoinSet},
};

use super::{
    UpOptions,
    plan::{Member, Snapshot, next_document},
};
use crate::{
    RunError, error_chain,
    host::{listen, reachable_at},
    services::definition,
    table::Table,
};

/// Longest time for requests in flight when a service stops.
const GRACE: Duration = Duration::from_secs(30);
/// Longest time from the start of a service until it is ready.
const READY: Duration = Duration::from_secs(10);

/// A running service.
pub(super) struct RunningService {
    pub(super) manifest: Manifest,
    pub(super) running: Running,
    pub(super) document: PolicyDocument,
}

/// The services of this process.
pub(super) struct Fleet {
    host: Host,
    bind: std::net::IpAddr,
    base_port: u16,
    only: Vec<String>,
    /// Identifies this run in the owner of every policy.
    run: String,
    /// Running services by the name of their manifest.
    pub(super) members: BTreeMap<String, RunningService>,
    /// One task per service that finishes its requests; true if all of them were finished.
    stops: JoinSet<bool>,
    /// The service of each task in `stops`.
    draining: HashMap<Id, Draining>,
    /// Manifests that start a service once it has stopped, by service.
    waiting: BTreeMap<&'static str, Manifest>,
}

/// A service that finishes its requests.
struct Draining {
    manifest: String,
    service: &'static str,
}

/// A service that has stopped.
pub(super) struct DrainedService {
    /// Name of its manifest.
    pub(super) manifest: String,
    /// True if every request was finished.
    pub(super) is_complete: bool,
    /// Manifest that starts the service again.
    pub(super) next: Option<Manifest>,
}

/// Returns the addresses at which the services of a fleet find each other.
pub(super) fn peers(options: &UpOptions) -> HashMap<String, Live<Vec<String>>> {
    let address = |service: &Service| {
        let port = service.port_from(options.base_port);
        let address = SocketAddr::new(reachable_at(options.host.bind), port);
        (service.name.to_owned(), Live::new(vec![address.to_string()]))
    };
    SERVICES.iter().map(address).collect()
}

impl Fleet {
    pub(super) fn new(host: Host, options: &UpOptions) -> Self {
        Self {
            host,
            bind: options.host.bind,
            base_port: options.base_port,
            only: options.only.clone(),
            run: format!("up-{}", Timestamp::now().as_millisecond()),
            members: BTreeMap::new(),
            stops: JoinSet::new(),
            draining: HashMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// True if the services reject requests without an API key.
    pub(super) fn are_keys_required(&self) -> bool {
        self.host.access.keys.are_required()
    }

    /// Returns the state that a plan begins from.
    pub(super) fn snapshot<'a>(&'a self) -> Snapshot<'a> {
        let member =
            |member: &'a RunningService| Member { manifest: &member.manifest, document: &member.document };
        Snapshot {
            run: &self.run,
            members: self.members.iter().map(|(name, running)| (name.as_str(), member(running))).collect(),
            draining: self.draining.values().map(|draining| draining.service).collect::<BTreeSet<_>>(),
            only: &self.only,
        }
    }

    /// Starts a service for every manifest, all at once. Reports every invalid setting and every port that is
    /// in use, not the first one.
    pub(super) async fn start_all(&mut self, manifests: Vec<Manifest>) -> Result<(), RunError> {
        let snapshot = self.snapshot();
        let wanted: Vec<_> =
            manifests.into_iter().filter(|manifest| snapshot.includes(manifest.service)).collect();
        let (mut listeners, mut errors) = (Vec::new(), Vec::new());
        for manifest in &wanted {
            let settings = definition(manifest.service).read_settings(&self.host.environment);
            errors.extend(settings.err().map(|error| error.to_string()));
            match self.listen(manifest.service) {
                Ok(listener) => listeners.push(listener),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if !errors.is_empty() {
            return Err(RunError::Failed(errors.join("\n")));
        }
        let starting =
            wanted.into_iter().zip(listeners).map(|(manifest, listener)| self.service(manifest, listener));
        for member in futures_util::future::join_all(starting).await {
            let member = member?;
            self.members.insert(member.manifest.name.clone(), member);
        }
        Ok(())
    }

    /// Starts one service.
    pub(super) async fn start_one(&mut self, manifest: Manifest) -> Result<SocketAddr, RunError> {
        let listener = self.listen(manifest.service)?;
        let member = self.service(manifest, listener).await?;
        let address = member.running.address();
        self.members.insert(member.manifest.name.clone(), member);
        Ok(address)
    }

    /// Replaces the manifests that wait for a service to stop. Returns the names of the new ones.
    pub(super) fn replace_waiting(&mut self, manifests: Vec<Manifest>) -> Vec<String> {
        let known = std::mem::take(&mut self.waiting);
        let mut new = Vec::new();
        for manifest in manifests {
            let service = manifest.service.as_str();
            if known.get(service).is_none_or(|known| known.name != manifest.name) {
                new.push(manifest.name.clone());
            }
            self.waiting.insert(service, manifest);
        }
        new
    }

    /// Stops a service after its requests, in the background; [`Fleet::drained`] reports the end.
    pub(super) fn stop_one(&mut self, manifest: &str) {
        if let Some(member) = self.members.remove(manifest) {
            let service = member.manifest.service.as_str();
            let task = self.stops.spawn(member.running.shutdown(GRACE));
            self.draining.insert(task.id(), Draining { manifest: manifest.to_owned(), service });
        }
    }

    /// Waits until one of the stopping services has stopped; if none stops, until cancelled. Cancel-safe.
    pub(super) async fn drained(&mut self) -> DrainedService {
        loop {
            let (id, is_complete) = match self.stops.join_next_with_id().await {
                Some(Ok(done)) => done,
                Some(Err(error)) => (error.id(), false),
                None => std::future::pending().await,
            };
            if let Some(Draining { manifest, service }) = self.draining.remove(&id) {
                return DrainedService { manifest, is_complete, next: self.waiting.remove(service) };
            }
        }
    }

    /// Stops every service. Returns true if every request was finished.
    pub(super) async fn stop_all(&mut self) -> bool {
        let members = std::mem::take(&mut self.members);
        let stops = members.into_values().map(|member| member.running.shutdown(GRACE));
        let mut is_complete = futures_util::future::join_all(stops).await.into_iter().all(|drained| drained);
        while let Some(earlier) = self.stops.join_next().await {
            is_complete &= earlier.unwrap_or(false);
        }
        is_complete
    }

    fn listen(&self, service: ServiceName) -> Result<TcpListener, RunError> {
        let service = service.service();
        let advice = "choose other ports with --base-port N";
        listen(self.bind, service.port_from(self.base_port), service.name, advice)
    }

    async fn service(&self, manifest: Manifest, listener: TcpListener) -> Result<RunningService, RunError> {
        let document = next_document(&self.run, &manifest, None, Timestamp::now())
            .expect("without a previous document there is always a next one");
        let enforcer = self.host.enforcer();
        enforcer.apply(document.clone());
        let running = start(definition(manifest.service), listener, &self.host, enforcer)
            .await
            .map_err(|error| RunError::Failed(error_chain(&error)))?;
        Ok(RunningService { manifest, running, document })
    }

    /// Waits until every service is ready. Returns their number.
    pub(super) async fn wait_until_ready(&self) -> Result<usize, RunError> {
        let due = Instant::now() + READY;
        for member in self.members.values() {
            let address = member.running.address();
            while !is_ready(address).await {
                if Instant::now() > due {
                    let name = member.manifest.service;
                    return Err(RunError::Failed(format!("{name} is not ready at {address}")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(self.members.len())
    }

    /// Returns the address of a running service.
    pub(super) fn address_of(&self, service: &str) -> Option<SocketAddr> {
        let member = self.members.values().find(|member| member.manifest.service.as_str() == service);
        member.map(|member| member.running.address())
    }

    /// Returns the address of any running service.
    pub(super) fn any_address(&self) -> Option<SocketAddr> {
        self.members.values().next().map(|member| member.running.address())
    }

    /// Returns the names of the running services, in the order of the catalog.
    pub(super) fn services(&self) -> Vec<&'static str> {
        let is_running = |service: &&Service| {
            self.members.values().any(|member| member.manifest.service.service() == *service)
        };
        SERVICES.iter().filter(is_running).map(|service| service.name).collect()
    }

    /// Returns a table of the services and their policies.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&["SERVICE", "ADDRESS", "LIMIT", "TTL", "SAMPLING", "REPLICAS"]);
        let mut members: Vec<_> = self.members.values().collect();
        members.sort_by_key(|member| member.running.address().port());
        for member in members {
            let policy = &member.document.policy;
            let sampling = format!("{:.4}", policy.tracing.sampling_rate * 100.0);
            table.row([
                member.manifest.service.to_string(),
                format!("http://{}", member.running.address()),
                limit(policy),
                policy.cache.as_ref().map_or("-".to_owned(), |cache| cache.ttl.to_string()),
                format!("{}%", sampling.trim_end_matches('0').trim_end_matches('.')),
                "1".to_owned(),
            ]);
        }
        table
    }
}

fn limit(policy: &Policy) -> String {
    policy.rate_limit.as_ref().map_or("-".to_owned(), |limit| {
        let key = format!("{:?}", limit.key).to_lowercase();
        format!("{} @ {}/s per {key}", limit.capacity, limit.refill_per_second)
    })
}

/// Asks a service whether it is ready.
async fn is_ready(address: SocketAddr) -> bool {
    let asking = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: phase6\r\nconnection: close\r\n\r\n").await?;
        let mut status_line = [0; 12];
        socket.read_exact(&mut status_line).await?;
        std::io::Result::Ok(status_line == *b"HTTP/1.1 200")
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), asking).await, Ok(Ok(true)))
}
