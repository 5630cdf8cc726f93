//! The services that run, each with the document it obeys.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phase6_chassis::{Definition, Host, Running, start};
use phase6_crds::{Document, compile};
use phase6_live::Live;
use phase6_policy::{Policy, PolicyDocument};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{Id, JoinSet},
};

use crate::{
    args::Up,
    ending::{Ending, chain},
    running::{listen, reached_at},
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
    /// Tells when a service has finished its last requests, and whether all of them.
    stopping: JoinSet<bool>,
    /// Which service each task of `stopping` waits for.
    leaving: HashMap<Id, Leaving>,
    /// Documents that start a service again when it is done stopping, by service.
    waiting: BTreeMap<&'static str, Document>,
}

/// A service that finishes its last requests.
pub(super) struct Leaving {
    /// The name of the document that it obeyed.
    pub(super) name: String,
    service: &'static str,
}

/// Where the services of a fleet find each other.
pub(super) fn peers(arguments: &Up) -> HashMap<String, Live<Vec<String>>> {
    let at = |service: &Definition| {
        let address = SocketAddr::new(reached_at(arguments.common.bind), port(service, arguments.base_port));
        (service.name.to_owned(), Live::new(vec![address.to_string()]))
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
            stopping: JoinSet::new(),
            leaving: HashMap::new(),
            waiting: BTreeMap::new(),
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
        compile(&resource, previous, 1, Timestamp::now())
    }

    /// Starts a service for every document, all at once. Every port that is taken is told, not the
    /// first one.
    pub(super) async fn start_all(&mut self, documents: Vec<Document>) -> Result<(), Ending> {
        let wanted: Vec<_> = documents.into_iter().filter(|document| self.wants(document)).collect();
        let mut listeners = Vec::new();
        let mut taken = Vec::new();
        for document in &wanted {
            match self.listen(document) {
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

    /// Whether a document's service runs for another document, or still finishes its last requests:
    /// until then its port is not free.
    pub(super) fn is_taken(&self, document: &Document) -> bool {
        let service = definition(document).name;
        let other = |member: &Member| {
            member.running.definition().name == service && member.document.name() != document.name()
        };
        self.leaving.values().any(|leaving| leaving.service == service) || self.members.values().any(other)
    }

    /// Keeps documents until their services have stopped, in place of those kept so far. Tells the
    /// names of those that are new.
    pub(super) fn wait_with(&mut self, documents: Vec<Document>) -> Vec<String> {
        let known = std::mem::take(&mut self.waiting);
        let mut new = Vec::new();
        for document in documents {
            let service = definition(&document).name;
            if known.get(service).is_none_or(|known| known.name() != document.name()) {
                new.push(document.name().to_owned());
            }
            self.waiting.insert(service, document);
        }
        new
    }

    /// Starts one more service.
    pub(super) async fn start_one(&mut self, document: Document) -> Result<SocketAddr, Ending> {
        let listener = self.listen(&document)?;
        let member = self.member(document, listener).await?;
        let address = member.running.address();
        self.members.insert(member.document.name().to_owned(), member);
        Ok(address)
    }

    /// Stops a service after its requests, in the background; [`Fleet::stopped`] tells when.
    pub(super) fn stop_one(&mut self, name: &str) {
        if let Some(member) = self.members.remove(name) {
            let service = member.running.definition().name;
            let task = self.stopping.spawn(member.running.stop(GRACE));
            self.leaving.insert(task.id(), Leaving { name: name.to_owned(), service });
        }
    }

    /// Waits until one of the services that stop has stopped: which one, whether all of its
    /// requests were finished, and the document that starts it again. Waits for ever if none stops.
    /// Cancel-safe.
    pub(super) async fn stopped(&mut self) -> (Leaving, bool, Option<Document>) {
        loop {
            let (id, drained) = match self.stopping.join_next_with_id().await {
                Some(Ok(done)) => done,
                Some(Err(error)) => (error.id(), false),
                None => std::future::pending().await,
            };
            if let Some(leaving) = self.leaving.remove(&id) {
                let next = self.waiting.remove(leaving.service);
                return (leaving, drained, next);
            }
        }
    }

    /// Stops everything; true if every request was finished.
    pub(super) async fn stop_all(&mut self) -> bool {
        let members = std::mem::take(&mut self.members);
        let stopping = members.into_values().map(|member| member.running.stop(GRACE));
        let mut drained = futures_util::future::join_all(stopping).await.into_iter().all(|drained| drained);
        while let Some(earlier) = self.stopping.join_next().await {
            drained &= earlier.unwrap_or(false);
        }
        drained
    }

    fn listen(&self, document: &Document) -> Result<TcpListener, Ending> {
        let service = definition(document);
        let advice = "choose other ports with --base-port N";
        listen(self.bind, port(service, self.base_port), service.name, advice)
    }

    async fn member(&self, document: Document, listener: TcpListener) -> Result<Member, Ending> {
        let published =
            self.compile(&document, None).expect("without a previous policy there is always a new one");
        let enforcer = self.host.enforcer();
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

    /// The services that run, in the order of their ports.
    pub(super) fn services(&self) -> Vec<&'static str> {
        let mut running: Vec<_> = self.members.values().map(|member| member.running.definition()).collect();
        running.sort_by_key(|service| service.port);
        running.into_iter().map(|service| service.name).collect()
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
