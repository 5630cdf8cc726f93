//! The services that run, each with the document it obeys.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phase6_chassis::{Definition, Enforcer, Host, Running, start};
use phase6_crds::{Document, compile};
use phase6_policy::{Policy, PolicyDocument};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    args::Up,
    ending::{Ending, chain},
    running::listen,
    services::{ALL, named, port},
    table::Table,
};

/// Longest time for requests under way when a service stops.
const GRACE: Duration = Duration::from_secs(30);
/// Longest time until a service that was started answers.
const ANSWER: Duration = Duration::from_secs(10);

/// A running service and the document it obeys.
pub(super) struct Member {
    pub(super) document: Document,
    pub(super) running: Running,
    pub(super) published: PolicyDocument,
}

/// The services of this process.
pub(super) struct Fleet {
    host: Host,
    bind: std::net::IpAddr,
    base_port: u16,
    only: Vec<String>,
    /// Distinguishes this run from every other one in the identity of a policy's owner.
    run: String,
    pub(super) members: BTreeMap<String, Member>,
    /// Services that finish their last requests, by service name.
    stopping: HashMap<&'static str, JoinHandle<()>>,
}

/// Where the services of a fleet find each other.
pub(super) fn peers(arguments: &Up) -> HashMap<String, Vec<String>> {
    let at = |service: &Definition| {
        let address = SocketAddr::new(arguments.common.bind, port(service, arguments.base_port));
        // What listens everywhere is reached at home.
        let address = if address.ip().is_unspecified() {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port())
        } else {
            address
        };
        (service.name.to_owned(), vec![address.to_string()])
    };
    ALL.iter().map(at).collect()
}

impl Fleet {
    pub(super) fn new(host: Host, arguments: &Up) -> Self {
        Self {
            host,
            bind: arguments.common.bind,
            base_port: arguments.base_port,
            only: arguments.only.clone(),
            run: format!("up-{}", Timestamp::now().as_millisecond()),
            members: BTreeMap::new(),
            stopping: HashMap::new(),
        }
    }

    /// Whether a document's service is to run here.
    pub(super) fn wants(&self, document: &Document) -> bool {
        let service = document.resource.spec.service.as_str();
        self.only.is_empty() || self.only.iter().any(|name| name == service)
    }

    /// Compiles a document into the policy that follows `previous`; none if nothing changed.
    pub(super) fn compile(
        &self,
        document: &Document,
        previous: Option<&PolicyDocument>,
    ) -> Option<PolicyDocument> {
        let mut resource = document.resource.clone();
        resource.metadata.uid = Some(format!("{}/{}", self.run, document.name()));
        resource.metadata.generation = Some(previous.map_or(1, |previous| previous.generation + 1));
        compile(&resource, previous, Timestamp::now())
    }

    /// Starts a service for every document, all at once. Every port that is taken is told, not the
    /// first one.
    pub(super) async fn start_all(&mut self, documents: Vec<Document>) -> Result<(), Ending> {
        let wanted: Vec<_> = documents.into_iter().filter(|document| self.wants(document)).collect();
        let mut listeners = Vec::new();
        let mut taken = Vec::new();
        for document in &wanted {
            match self.listen(document).await {
                Ok(listener) => listeners.push(listener),
                Err(Ending::Findings(text) | Ending::Usage(text)) => taken.push(text),
            }
        }
        if !taken.is_empty() {
            return Err(Ending::Findings(taken.join("\n")));
        }
        let starting =
            wanted.into_iter().zip(listeners).map(|(document, listener)| self.member(document, listener));
        for member in futures_util::future::join_all(starting).await {
            let member = member?;
            self.members.insert(member.document.name().to_owned(), member);
        }
        Ok(())
    }

    /// Starts one more service.
    pub(super) async fn start_one(&mut self, document: Document) -> Result<SocketAddr, Ending> {
        let service = document.resource.spec.service.as_str();
        if let Some(stopping) = self.stopping.remove(service) {
            // Its port is free when its last request is done.
            let _ = stopping.await;
        }
        let listener = self.listen(&document).await?;
        let member = self.member(document, listener).await?;
        let address = member.running.address();
        self.members.insert(member.document.name().to_owned(), member);
        Ok(address)
    }

    /// Stops a service after its requests, in the background; `done` is told when it has.
    pub(super) fn stop_one(&mut self, name: &str, done: impl FnOnce(bool) + Send + 'static) {
        if let Some(member) = self.members.remove(name) {
            let service = member.running.definition().name;
            let stopping =
                tokio::spawn(async move { done(member.running.stop(Duration::ZERO, GRACE).await) });
            self.stopping.insert(service, stopping);
        }
    }

    /// Stops everything; true if every request was finished.
    pub(super) async fn stop_all(&mut self) -> bool {
        let members = std::mem::take(&mut self.members);
        let stopping = members.into_values().map(|member| member.running.stop(Duration::ZERO, GRACE));
        let drained = futures_util::future::join_all(stopping).await.into_iter().all(|drained| drained);
        for (_, stopping) in self.stopping.drain() {
            let _ = stopping.await;
        }
        drained
    }

    async fn listen(&self, document: &Document) -> Result<TcpListener, Ending> {
        let service = definition(document);
        let advice = "choose other ports with --base-port N";
        listen(self.bind, port(service, self.base_port), service.name, advice).await
    }

    async fn member(&self, document: Document, listener: TcpListener) -> Result<Member, Ending> {
        let published =
            self.compile(&document, None).expect("without a previous policy there is always a new one");
        let enforcer = Enforcer::default();
        enforcer.apply(published.clone());
        let running = start(definition(&document), listener, &self.host, enforcer)
            .await
            .map_err(|error| Ending::Findings(chain(&error)))?;
        Ok(Member { document, running, published })
    }

    /// Asks every service until each has answered; gives their number.
    pub(super) async fn wait_until_answering(&self) -> Result<usize, Ending> {
        let due = Instant::now() + ANSWER;
        for member in self.members.values() {
            let address = member.running.address();
            while !answers(address).await {
                if Instant::now() > due {
                    let name = member.running.definition().name;
                    return Err(Ending::Findings(format!("{name} does not answer at {address}")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(self.members.len())
    }

    /// Where a service listens.
    pub(super) fn address_of(&self, service: &str) -> Option<SocketAddr> {
        let member = self.members.values().find(|member| member.running.definition().name == service);
        member.map(|member| member.running.address())
    }

    pub(super) fn any_address(&self) -> Option<SocketAddr> {
        self.members.values().next().map(|member| member.running.address())
    }

    /// The services and what they obey.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&["SERVICE", "ADDRESS", "LIMIT", "TTL", "SAMPLING", "REPLICAS"]);
        let mut members: Vec<_> = self.members.values().collect();
        members.sort_by_key(|member| member.running.address().port());
        for member in members {
            let policy = &member.published.policy;
            table.row([
                member.running.definition().name.to_owned(),
                format!("http://{}", member.running.address()),
                limit(policy),
                policy.cache.as_ref().map_or("-".to_owned(), |cache| cache.ttl.to_string()),
                format!("{:.4}", policy.tracing.sampling_rate * 100.0)
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned()
                    + "%",
                "1".to_owned(),
            ]);
        }
        table
    }
}

fn definition(document: &Document) -> &'static Definition {
    named(document.resource.spec.service.as_str()).expect("every service that can be named is listed")
}

fn limit(policy: &Policy) -> String {
    policy.rate_limit.as_ref().map_or("-".to_owned(), |limit| {
        let key = format!("{:?}", limit.key).to_lowercase();
        format!("{} @ {}/s per {key}", limit.capacity, limit.refill_per_second)
    })
}

/// Whether a service answers that it is ready.
async fn answers(address: SocketAddr) -> bool {
    let asking = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: phase6\r\nconnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer == *b"HTTP/1.1 200")
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), asking).await, Ok(Ok(true)))
}
