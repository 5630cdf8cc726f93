//! The limiter of one simulated replica: a lease and its published credit.

use phase6_ratelimit::{
    Limit,
    lease::{Credit, CreditDecision, CreditWord, Lease},
};

/// A lease and the credit by which requests are decided without it.
pub struct ReplicaLimiter {
    lease: Lease,
    /// Credit as published.
    credit: Option<Credit>,
    /// Word of the credit without the tokens spent since it was published.
    word: CreditWord,
    refused: u32,
    last_request_ns: u64,
}

impl ReplicaLimiter {
    pub fn new(lease: Lease) -> Self {
        Self { lease, credit: None, word: CreditWord::default(), refused: 0, last_request_ns: 0 }
    }

    /// Decides on a request by the published credit. Returns true if it is admitted, and `None` if only the
    /// lease can decide.
    pub fn decide(&mut self, limit: &Limit, now_ns: u64) -> Option<bool> {
        self.credit.filter(|credit| credit.limit == *limit)?;
        let decision = self.word.decide(now_ns)?;
        self.last_request_ns = now_ns;
        match decision {
            CreditDecision::Admit(left) => self.word = left,
            CreditDecision::Refuse => self.refused += 1,
        }
        Some(decision != CreditDecision::Refuse)
    }

    /// Withdraws the credit, applies `f` to the lease, and publishes its credit anew.
    pub fn with_lease<R>(&mut self, now_ns: u64, f: impl FnOnce(&mut Lease) -> R) -> R {
        if let Some(credit) = self.credit.take() {
            let spent = credit.word.tokens() - self.word.tokens();
            self.lease.reconcile(spent, std::mem::take(&mut self.refused), self.last_request_ns);
        }
        let result = f(&mut self.lease);
        self.credit = self.lease.publish(now_ns);
        self.word = self.credit.map_or_else(CreditWord::default, |credit| credit.word);
        result
    }

    /// Returns the lease, which does not account for tokens spent since its credit was published.
    pub fn unreconciled_lease(&mut self) -> &Lease {
        self.lease.record_request(self.last_request_ns);
        &self.lease
    }
}
