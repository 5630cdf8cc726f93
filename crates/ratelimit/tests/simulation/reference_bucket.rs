//! The bucket that the admissions of all simulated replicas are checked against.

/// A single bucket that receives every admitted request.
#[derive(Clone)]
pub struct ReferenceBucket {
    /// Used tokens.
    pub used: f64,
    /// Time of the last admission, in nanoseconds.
    pub updated_ns: u64,
    /// Maximum number of used tokens.
    pub capacity: f64,
    /// Rate at which used tokens drain, per second.
    pub rate: f64,
}

impl ReferenceBucket {
    /// Takes a token for an admitted request.
    pub fn admit(&mut self, now: u64) {
        self.used = (self.used - self.rate * (now - self.updated_ns) as f64 / 1e9).max(0.0) + 1.0;
        self.updated_ns = now;
    }

    /// Returns true if more requests were admitted than the bucket would have.
    pub fn is_exceeded(&self) -> bool {
        self.used > self.capacity + 1e-3
    }
}
