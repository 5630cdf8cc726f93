//! Clients of AI providers.
//!
//! ```text
//! Prompt -> WireFormat (pure) -> HTTPS -> WireFormat (pure) -> Completion | Chunk... | CallError
//! ```
//!
//! * [`Directory`] has every configured provider, and says which of them are usable now.
//! * [`Client`] sends requests, with a limit on every wait and every size.
//! * `wire` translates between prompts and the documented formats; it does no I/O.
//!
//! Guarantees that API keys and passwords never appear in an error, a log or a status. Prices,
//! budgets and retries are left to [`app`](crate::app).

mod api_key;
mod base_url;
mod chunks;
mod client;
mod directory;
mod error;
mod provider;
mod sse;
mod wire;

pub use self::{
    api_key::{ApiKey, InvalidApiKey},
    base_url::{BaseUrl, InvalidBaseUrl},
    chunks::ChunkStream,
    client::{Client, answer_time_limit},
    directory::Directory,
    error::CallError,
    provider::{Provider, ProviderStatus},
    wire::{Chunk, Completion},
};
