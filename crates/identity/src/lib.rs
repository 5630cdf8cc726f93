//! Identity of callers: principals, the API keys that authenticate them, and the assertions by which services
//! call each other on their behalf.
//!
//! ```text
//! X-API-Key -> SHA-256 -> Keys (key file + database, followed while the process runs) --+
//!                                                                                       +-> Principal
//! phase6-internal -> HMAC over tenant, subject, role and expiry, with the fleet's token +
//! ```
//!
//! * [`Principal`] has a tenant, a subject and a [`Role`]; handlers extract it from a request.
//! * [`Keys`] authenticates API keys, of which only hashes are known, and creates and revokes them.
//! * [`InternalToken`] signs and verifies assertions. It never travels itself.
//!
//! A fleet that only its own machine can reach takes everybody as [`Principal::anonymous`] until its first key
//! exists, and never again after that, even if all keys are revoked.

mod api_key;
mod assertion;
mod key_file;
mod key_set;
mod key_table;
mod keys;
mod principal;
mod recent;

pub use self::{
    api_key::{ApiKey, Digest, KeyId},
    assertion::{ASSERTION_LIFETIME, InternalToken},
    key_file::{InvalidKeyLine, KeyFile},
    key_set::{Authentication, KeySource, ListedKey},
    keys::{ChangeKeysError, Keys, KeysConfig, NewKey, OpenKeysError},
    principal::{InvalidName, InvalidRole, MissingPrincipal, Name, Principal, Role},
};
