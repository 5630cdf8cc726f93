//! A lease and what it has lent, as a replica keeps them.

use phase6_ratelimit::{
    Limit,
    lease::{Lease, Loan, Purse, Said},
};

/// The lease, and the purse by which requests are decided without it.
pub struct Desk {
    lease: Lease,
    loan: Option<Loan>,
    /// The purse with what was spent of it.
    purse: Purse,
    refused: u32,
    seen_ns: u64,
}

impl Desk {
    pub fn new(lease: Lease) -> Self {
        Self { lease, loan: None, purse: Purse::default(), refused: 0, seen_ns: 0 }
    }

    /// Whether a request is admitted, if the purse says so.
    pub fn decide(&mut self, limit: &Limit, now_ns: u64) -> Option<bool> {
        self.loan.filter(|loan| loan.limit == *limit)?;
        let said = self.purse.decide(now_ns)?;
        self.seen_ns = now_ns;
        match said {
            Said::Admit(left) => self.purse = left,
            Said::Refuse => self.refused += 1,
        }
        Some(said != Said::Refuse)
    }

    /// Works on the lease, which has nothing lent meanwhile.
    pub fn with<R>(&mut self, now_ns: u64, work: impl FnOnce(&mut Lease) -> R) -> R {
        if let Some(loan) = self.loan.take() {
            let spent = loan.purse.tokens() - self.purse.tokens();
            self.lease.settle(spent, std::mem::take(&mut self.refused), self.seen_ns);
        }
        let result = work(&mut self.lease);
        self.loan = self.lease.lend(now_ns);
        self.purse = self.loan.map_or_else(Purse::default, |loan| loan.purse);
        result
    }

    /// The lease, which does not know what is spent of what it has lent.
    pub fn looked_at(&mut self) -> &Lease {
        self.lease.was_seen(self.seen_ns);
        &self.lease
    }
}
