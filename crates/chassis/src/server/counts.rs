//! Counts of connections, in total and per client prefix.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::operations::Registrar;

/// Counts of a server's connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounts {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    open_by_prefix: Mutex<HashMap<ClientPrefix, usize>>,
}

/// Counts of connections, as `/api/v1/system/observability` shows them.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionSnapshot {
    /// Open connections.
    pub(crate) open: usize,
    /// Connections accepted since the start.
    pub(crate) accepted: u64,
    /// Connections closed on accept because a limit was reached.
    pub(crate) refused: u64,
    /// Connections closed because a read or write exceeded its time limit.
    pub(crate) timed_out: u64,
}

/// Part of an address that identifies a client: an IPv4 address, or the first 64 bits of an IPv6 address, of
/// which a subscriber usually has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientPrefix([u8; 8]);

impl From<IpAddr> for ClientPrefix {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self([0, 0, 0, 0, a, b, c, d])
            }
            IpAddr::V6(v6) => Self(v6.octets()[..8].try_into().expect("16 bytes begin with 8 bytes")),
        }
    }
}

impl ConnectionCounts {
    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a connection as open. Returns `None` if its prefix has `max_per_prefix` open connections.
    pub(super) fn try_open(
        self: &Arc<Self>,
        prefix: ClientPrefix,
        max_per_prefix: usize,
    ) -> Option<OpenConnection> {
        let mut open_by_prefix = self.open_by_prefix.lock();
        let open = open_by_prefix.entry(prefix).or_default();
        if *open >= max_per_prefix {
            return None;
        }
        *open += 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(OpenConnection { counts: Arc::clone(self), prefix })
    }

    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> ConnectionSnapshot {
        ConnectionSnapshot {
            open: self.open(),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
        }
    }

    /// Registers the metric series of connections.
    pub(crate) fn register(self: &Arc<Self>, registrar: &Registrar<'_>) {
        let counts = Arc::clone(self);
        registrar.gauge("phase6_connections_open", "Open client connections", move || counts.open() as f64);
        let counts = Arc::clone(self);
        registrar.counter("phase6_connections_accepted_total", "Client connections accepted", move || {
            counts.snapshot().accepted as f64
        });
        let counts = Arc::clone(self);
        registrar.counter(
            "phase6_connections_refused_total",
            "Client connections closed on accept because a connection limit was reached",
            move || counts.snapshot().refused as f64,
        );
        let counts = Arc::clone(self);
        registrar.counter(
            "phase6_connections_timed_out_total",
            "Client connections closed because a read or write exceeded its time limit",
            move || counts.snapshot().timed_out as f64,
        );
    }
}

/// Counts a connection as open until it is dropped.
pub(super) struct OpenConnection {
    counts: Arc<ConnectionCounts>,
    prefix: ClientPrefix,
}

impl OpenConnection {
    /// Counts the connection as closed because of a time limit.
    pub(super) fn count_timed_out(&self) {
        self.counts.timed_out.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        let mut open_by_prefix = self.counts.open_by_prefix.lock();
        if let Some(open) = open_by_prefix.get_mut(&self.prefix) {
            *open -= 1;
            if *open == 0 {
                open_by_prefix.remove(&self.prefix);
            }
        }
    }
}
