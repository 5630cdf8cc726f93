//! Redis with failover, started for one test: a master under sentinels, and a cluster.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Redis, fleet::free_ports};

/// Milliseconds of silence after which the other servers count a server as down.
const DOWN_AFTER: u32 = 500;
/// Password of the servers and of the sentinels.
const PASSWORD: &str = "secret";
/// Number of hash slots of a cluster.
const SLOTS: u16 = 16_384;
/// Masters of a cluster at its start; as many replicas follow them.
const MASTERS: usize = 3;

/// Waits up to 30 s until `condition` holds; `description` names it in the panic if it never does.
fn wait_until(description: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {description}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True if the reply to a command has this line; false if there is no reply.
fn reports(server: &Redis, command: &str, line: &str) -> bool {
    server.try_command(command).is_ok_and(|reply| reply.lines().any(|each| each == line))
}

/// True if a running server is a replica.
fn is_replica(server: &Redis) -> bool {
    server.command("INFO replication").lines().any(|each| each == "role:slave")
}

/// A master and a replica, with three sentinels that call the master `main`. All require a password.
pub struct RedisSentinels {
    servers: [Redis; 2],
    sentinels: Vec<Redis>,
    /// Index of the master.
    master: usize,
    _folder: TempDir,
}

impl RedisSentinels {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let passwords = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];
        let master = Redis::start(&passwords).with_password(PASSWORD);
        let of_master = format!("127.0.0.1 {}", master.port);
        let replica =
            Redis::start(&[&passwords[..], &["--replicaof", &of_master]].concat()).with_password(PASSWORD);
        wait_until("the replica is in sync", || {
            reports(&replica, "INFO replication", "master_link_status:up")
        });
        let base = free_ports();
        let sentinels = (base..base + 3).map(|port| {
            let file = folder.path().join(format!("{port}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main {DOWN_AFTER}\nsentinel failover-timeout main 500\n\
                 sentinel auth-pass main {PASSWORD}\nrequirepass {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\n",
                folder.path().display(),
                master.port
            );
            std::fs::write(&file, text).unwrap();
            let arguments = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
            Redis::with_arguments(port, arguments).with_password(PASSWORD)
        });
        let sentinels: Vec<_> = sentinels.collect();
        for sentinel in &sentinels {
            wait_until("the sentinels know one another and the replica", || {
                let info = sentinel.command("INFO sentinel");
                info.contains("status=ok") && info.contains("slaves=1,sentinels=3")
            });
        }
        Self { servers: [master, replica], sentinels, master: 0, _folder: folder }
    }

    /// URL for services.
    pub fn url(&self) -> String {
        let all: Vec<_> = self.sentinels.iter().map(|each| format!("127.0.0.1:{}", each.port)).collect();
        format!("redis-sentinel://:{PASSWORD}@{}/main", all.join(","))
    }

    /// Kills the master, once the other server is a replica in sync with it.
    pub fn kill_master(&mut self) {
        ensure_in_sync(&mut self.servers[1 - self.master]);
        self.servers[self.master].kill();
    }

    /// Waits until the other server is the master, and every sentinel reports it.
    pub fn wait_for_failover(&mut self) {
        self.master = 1 - self.master;
        let master = &self.servers[self.master];
        wait_until("the replica is promoted", || reports(master, "INFO replication", "role:master"));
        let address = format!("address=127.0.0.1:{},", master.port);
        for sentinel in &self.sentinels {
            wait_until("the sentinels report it", || sentinel.command("INFO sentinel").contains(&address));
        }
    }
}

/// Starts a server again if it was killed, and waits until it is a replica in sync with its master.
fn ensure_in_sync(replica: &mut Redis) {
    if !replica.is_running() {
        replica.restart();
    }
    wait_until("the replica is in sync", || reports(replica, "INFO replication", "master_link_status:up"));
}

/// A cluster of three masters with one replica each.
pub struct RedisCluster {
    /// The initial masters, and then their replicas in the same order.
    nodes: Vec<Redis>,
    _folder: TempDir,
}

impl RedisCluster {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let buses = free_ports();
        let nodes: Vec<_> = (0..2 * MASTERS as u16)
            .map(|i| {
                let file = folder.path().join(format!("nodes-{i}.conf"));
                let (file, bus) = (file.to_str().unwrap(), (buses + i).to_string());
                let timeout = DOWN_AFTER.to_string();
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
            node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", i + 1));
            nodes[0].command(&format!("CLUSTER MEET 127.0.0.1 {} {}", node.port, buses + i as u16));
        }
        for (i, node) in nodes.iter().enumerate() {
            wait_until("the nodes know one another", || {
                reports(node, "CLUSTER INFO", "cluster_known_nodes:6")
            });
            if let Some((first, last)) = slots(i) {
                node.command(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            }
        }
        for (replica, master) in nodes[MASTERS..].iter().zip(&nodes) {
            let id = master.command("CLUSTER MYID");
            wait_until("the replica knows its master", || replica.command("CLUSTER NODES").contains(&id));
            replica.command(&format!("CLUSTER REPLICATE {id}"));
        }
        for node in &nodes {
            wait_until("every slot is served", || reports(node, "CLUSTER INFO", "cluster_state:ok"));
        }
        for replica in &nodes[MASTERS..] {
            wait_until("the replica is in sync", || {
                reports(replica, "INFO replication", "master_link_status:up")
            });
        }
        Self { nodes, _folder: folder }
    }

    /// URL for services. It names two of the nodes, one of them a replica.
    pub fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", self.nodes[1].port, self.nodes[5].port)
    }

    /// Index of the initial master of the slot of `key`. Its initial replica follows `MASTERS` places later.
    fn initial_master(&self, key: &str) -> usize {
        let listens = |node: &&Redis| TcpStream::connect(("127.0.0.1", node.port)).is_ok();
        let node = self.nodes.iter().find(listens).unwrap();
        let slot: u16 = node.command(&format!("CLUSTER KEYSLOT {key}")).parse().unwrap();
        let owns = |i: &usize| slots(*i).is_some_and(|(first, last)| (first..=last).contains(&slot));
        (0..MASTERS).find(owns).unwrap()
    }

    /// Kills the master of `key`, once its replica is in sync.
    pub fn kill_master(&mut self, key: &str) {
        let initial = self.initial_master(key);
        let (mut master, mut replica) = (initial, initial + MASTERS);
        if !self.nodes[master].is_running() || is_replica(&self.nodes[master]) {
            (master, replica) = (replica, master);
        }
        ensure_in_sync(&mut self.nodes[replica]);
        self.nodes[master].kill();
    }

    /// Waits until the surviving server of `key` is its master.
    pub fn wait_for_failover(&mut self, key: &str) {
        let initial = self.initial_master(key);
        let survivor = if self.nodes[initial].is_running() { initial } else { initial + MASTERS };
        let survivor = &self.nodes[survivor];
        wait_until("the replica is promoted", || reports(survivor, "INFO replication", "role:master"));
        wait_until("every slot is served", || reports(survivor, "CLUSTER INFO", "cluster_state:ok"));
    }

    /// Swaps the master of `key` and its replica without losing data.
    pub fn swap_master(&self, key: &str) {
        let initial = self.initial_master(key);
        let pair = [initial, initial + MASTERS].map(|i| &self.nodes[i]);
        let replica = pair.into_iter().find(|node| is_replica(node)).unwrap();
        replica.command("CLUSTER FAILOVER");
        wait_until("the replica is promoted", || reports(replica, "INFO replication", "role:master"));
        wait_until("the former master is a replica", || pair.iter().any(|node| is_replica(node)));
    }
}

/// Returns the first and the last slot of the initial master with this index.
fn slots(i: usize) -> Option<(u16, u16)> {
    let third = SLOTS / 3;
    [(0, third - 1), (third, 2 * third - 1), (2 * third, SLOTS - 1)].get(i).copied()
}
