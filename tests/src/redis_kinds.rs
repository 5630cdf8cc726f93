//! Redis as it is run where it must not be lost: under sentinels, and as a cluster. Of a test's own.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Redis, fleet::free_ports};

/// A server that is silent for so long is given up by the others, in milliseconds.
const GIVEN_UP_AFTER: u32 = 500;
/// What servers and sentinels want to hear.
const PASSWORD: &str = "secret";
/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// Waits for a condition.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let due = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < due, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a server says so; it does not while it does not answer.
fn has(server: &Redis, command: &str, line: &str) -> bool {
    server.try_ask(command).is_ok_and(|told| told.lines().any(|each| each == line))
}

/// Whether a server that answers is a replica.
fn follows(server: &Redis) -> bool {
    server.ask("INFO replication").lines().any(|each| each == "role:slave")
}

/// A master and a replica, and three sentinels that call the master `main`. All want a password.
pub struct RedisSentinels {
    servers: [Redis; 2],
    sentinels: Vec<Redis>,
    master: usize,
    _folder: TempDir,
}

impl RedisSentinels {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let locks = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];
        let master = Redis::start(&locks).locked(PASSWORD);
        let of_master = format!("127.0.0.1 {}", master.port);
        let replica = Redis::start(&[&locks[..], &["--replicaof", &of_master]].concat()).locked(PASSWORD);
        until("the replica follows", || has(&replica, "INFO replication", "master_link_status:up"));
        let base = free_ports();
        let sentinels = (base..base + 3).map(|port| {
            let file = folder.path().join(format!("{port}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main {GIVEN_UP_AFTER}\nsentinel failover-timeout main 500\n\
                 sentinel auth-pass main {PASSWORD}\nrequirepass {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\n",
                folder.path().display(),
                master.port
            );
            std::fs::write(&file, text).unwrap();
            Redis::bare(port, vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()]).locked(PASSWORD)
        });
        let sentinels: Vec<_> = sentinels.collect();
        for sentinel in &sentinels {
            until("the sentinels know one another and the replica", || {
                let told = sentinel.ask("INFO sentinel");
                told.contains("status=ok") && told.contains("slaves=1,sentinels=3")
            });
        }
        Self { servers: [master, replica], sentinels, master: 0, _folder: folder }
    }

    /// Where services find it.
    pub fn url(&self) -> String {
        let all: Vec<_> = self.sentinels.iter().map(|each| format!("127.0.0.1:{}", each.port)).collect();
        format!("redis-sentinel://:{PASSWORD}@{}/main", all.join(","))
    }

    /// Kills the master, of which the other server has everything.
    pub fn kill_master(&mut self) {
        revive(&mut self.servers[1 - self.master]);
        self.servers[self.master].kill();
    }

    /// Waits until the other server is the master, and every sentinel says so.
    pub fn fail_over(&mut self) {
        self.master = 1 - self.master;
        let master = &self.servers[self.master];
        until("the replica is promoted", || has(master, "INFO replication", "role:master"));
        let address = format!("address=127.0.0.1:{},", master.port);
        for sentinel in &self.sentinels {
            until("the sentinels name it", || sentinel.ask("INFO sentinel").contains(&address));
        }
    }
}

/// Starts a server again if it was killed, and waits until it follows its master.
fn revive(replica: &mut Redis) {
    if !replica.lives() {
        replica.revive();
    }
    until("it follows", || has(replica, "INFO replication", "master_link_status:up"));
}

/// A cluster of three masters with a replica each.
pub struct RedisCluster {
    /// The masters of the beginning, and then their replicas in the same order.
    nodes: Vec<Redis>,
    _folder: TempDir,
}

impl RedisCluster {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let buses = free_ports();
        let nodes: Vec<_> = (0..6)
            .map(|i| {
                let file = folder.path().join(format!("nodes-{i}.conf"));
                let (file, bus) = (file.to_str().unwrap(), (buses + i).to_string());
                let timeout = GIVEN_UP_AFTER.to_string();
                Redis::start(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-config-file",
                    file,
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    &timeout,
                    "--cluster-replica-validity-factor",
                    "0",
                ])
            })
            .collect();
        for (i, node) in nodes.iter().enumerate() {
            node.say(&format!("CLUSTER SET-CONFIG-EPOCH {}", i + 1));
            nodes[0].say(&format!("CLUSTER MEET 127.0.0.1 {} {}", node.port, buses + i as u16));
        }
        for (i, node) in nodes.iter().enumerate() {
            until("the nodes know one another", || has(node, "CLUSTER INFO", "cluster_known_nodes:6"));
            if let Some((first, last)) = slots(i) {
                node.say(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            }
        }
        for (replica, master) in nodes[3..].iter().zip(&nodes) {
            let id = master.ask("CLUSTER MYID");
            until("the replica knows its master", || replica.ask("CLUSTER NODES").contains(&id));
            replica.say(&format!("CLUSTER REPLICATE {id}"));
        }
        for node in &nodes {
            until("the cluster is whole", || has(node, "CLUSTER INFO", "cluster_state:ok"));
        }
        for replica in &nodes[3..] {
            until("the replica follows", || has(replica, "INFO replication", "master_link_status:up"));
        }
        Self { nodes, _folder: folder }
    }

    /// Where services find it: two of its nodes, a replica among them.
    pub fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", self.nodes[1].port, self.nodes[5].port)
    }

    /// The master and the replica, as they were at the beginning, of the slot of a key.
    fn pair(&self, key: &str) -> usize {
        let answers = |node: &&Redis| TcpStream::connect(("127.0.0.1", node.port)).is_ok();
        let node = self.nodes.iter().find(answers).unwrap();
        let slot: u16 = node.ask(&format!("CLUSTER KEYSLOT {key}")).parse().unwrap();
        (0..3).find(|i| slots(*i).is_some_and(|(first, last)| (first..=last).contains(&slot))).unwrap()
    }

    /// Kills the server of a key, of which another one has everything.
    pub fn kill_master(&mut self, key: &str) {
        let (mut master, mut replica) = (self.pair(key), self.pair(key) + 3);
        if !self.nodes[master].lives() || follows(&self.nodes[master]) {
            (master, replica) = (replica, master);
        }
        revive(&mut self.nodes[replica]);
        self.nodes[master].kill();
    }

    /// Waits until the other server of a key is its master.
    pub fn fail_over(&mut self, key: &str) {
        let first = self.pair(key);
        let lives = if self.nodes[first].lives() { first } else { first + 3 };
        let lives = &self.nodes[lives];
        until("the replica is promoted", || has(lives, "INFO replication", "role:master"));
        until("it serves", || has(lives, "CLUSTER INFO", "cluster_state:ok"));
    }

    /// The keys that the server of this one has go to its replica, and nothing is lost. Then the other way round.
    pub fn hand_over(&self, key: &str) {
        let pair = [self.pair(key), self.pair(key) + 3].map(|i| &self.nodes[i]);
        let replica = pair.into_iter().find(|node| follows(node)).unwrap();
        replica.say("CLUSTER FAILOVER");
        until("the replica is promoted", || has(replica, "INFO replication", "role:master"));
        until("the other one follows it", || pair.iter().any(|node| follows(node)));
    }
}

/// The slots of a master of the beginning.
fn slots(i: usize) -> Option<(u16, u16)> {
    let third = SLOTS / 3;
    [(0, third - 1), (third, 2 * third - 1), (2 * third, SLOTS - 1)].get(i).copied()
}
