//! Idempotency keys: an effect happens once, however often its request is sent
//! (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! ```text
//! effect within a transaction:  BEGIN, effect, store (key, fingerprint, response), COMMIT
//! effect outside of one:        claim, effect, complete | abandon
//! ```
//!
//! * [`IdempotencyKey`] parses the header `Idempotency-Key`.
//! * [`Request`] is one request with a key: its scope (tenant, subject and route) and the fingerprint of its body.
//! * [`store`] writes the response in the transaction of its effect. Of two such transactions one commits; the
//!   other one gets its response.
//! * [`claim`] serves effects that no transaction can hold, such as a call to another service. A claim whose
//!   holder has died expires.
//!
//! Only responses to successful requests are stored, for [`RETENTION`]. A failed request had no effect, and may be
//! repeated with its key.

mod key;
mod table;

pub use self::{
    key::{Fingerprint, IdempotencyKey, InvalidKey, Request},
    table::{
        Claim, ClaimOutcome, MIGRATIONS, Outcome, RETENTION, StoreOutcome, StoredResponse, claim,
        delete_expired, find, store,
    },
};
