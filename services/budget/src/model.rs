//! Domain model: values, rules and arithmetic of the budget.
//!
//! Does no I/O, contains no async code, and knows nothing of HTTP, JSON or SQL. Functions that
//! depend on the time take `now` as an argument. Constructors refuse values outside of their
//! range with [`InvalidValue`].
//!
//! Persistence is left to [`store`](crate::store), calls to [`providers`](crate::providers), use
//! cases to [`app`](crate::app), and the wire format of requests and responses to `api`.

pub mod answer;
pub mod cohort;
pub mod money;
pub mod policy;
pub mod price;
pub mod prompt;
pub mod provider;
pub mod roi;
pub mod routing;
pub mod spending;
pub mod workflow;

mod invalid_value;

pub use self::{
    answer::{Answer, AnswerRequest, AnswerSource, CacheKey, CachedAnswer, FailedAttempt, FailureCause},
    invalid_value::InvalidValue,
    money::MicroDollars,
    policy::{PolicyChange, ProviderPolicy},
    price::{Price, PriceList},
    prompt::{Prompt, Usage},
    provider::ProviderId,
    routing::{Criticality, Task},
};
