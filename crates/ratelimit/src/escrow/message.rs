//! Messages between a replica and the shared state: the report and the grant.

/// A replica's account of one bucket, and its request for tokens.
///
/// States totals, never changes: if a report or its grant is lost, the next report corrects the shared state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Identity of the lease. Unique among all replicas, and replaced when the lease expires.
    pub holder: u64,
    /// Sequence number of the report within its holder. A report with a lower number than an earlier arrival
    /// is late and ignored.
    pub sequence: u64,
    /// Tokens spent under this holder in total.
    pub spent: u64,
    /// Part of `spent` that the shared state is known to have recorded.
    pub acknowledged: u64,
    /// Tokens that the replica has leased and not spent.
    pub leased: u32,
    /// Tokens for requests that are waiting now.
    pub needed: u32,
    /// Tokens to lease, including `needed`.
    pub wanted: u32,
    /// Tokens to reserve ahead of their refill if none is available now.
    pub reserve: u32,
    /// Maximum time until the last reserved token is due, in microseconds.
    pub reserve_within_us: u64,
}

impl Report {
    /// Returns true if the report requests tokens. Such a report stems from a request and so carries the
    /// limit in force; any other may come from a replica that has not evaluated its policy for some time.
    pub(super) fn requests_tokens(&self) -> bool {
        self.wanted > 0 || self.reserve > 0
    }
}

/// The response to a report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grant {
    /// Number of leased or reserved tokens.
    pub tokens: u32,
    /// Time until the first granted token is due, in microseconds; the others follow at the refill rate. 0 if
    /// all of them may be spent at once.
    pub due_in_us: u64,
    /// If no token was granted: time until one is available, if no other replica takes it first, in
    /// microseconds.
    pub retry_in_us: u64,
    /// If no token was granted: shortest time until one can be available, because other replicas may return
    /// theirs, in microseconds. A report before that is futile.
    pub recheck_in_us: u64,
    /// Whole tokens that remain available to all replicas.
    pub remaining: u32,
}

/// A grant as the Redis script returns it: the fields of [`Grant`] in order.
pub type GrantReply = (u32, u64, u64, u64, u32);

impl From<GrantReply> for Grant {
    fn from((tokens, due_in_us, retry_in_us, recheck_in_us, remaining): GrantReply) -> Self {
        Self { tokens, due_in_us, retry_in_us, recheck_in_us, remaining }
    }
}

impl Grant {
    /// Returns how many of `needed` waiting requests the grant serves. Their tokens are spent at once:
    /// replica and shared state both count them as spent.
    pub fn served(&self, needed: u32) -> u32 {
        if self.due_in_us == 0 { self.tokens.min(needed) } else { 0 }
    }
}
