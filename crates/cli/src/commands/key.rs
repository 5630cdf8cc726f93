//! `phase6 key`: creates an API key.

use phase6_chassis::ApiKeys;
use phase6_runner::{RunError, output::print};

use crate::args::Key;

pub(crate) fn run(options: &Key) -> Result<(), RunError> {
    let owner = &options.owner;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if owner.is_empty() || owner.len() > 64 || !owner.chars().all(is_plain) {
        let accepted = "1 to 64 letters, digits, dashes, dots, underscores or @";
        return Err(RunError::Usage(format!("OWNER is {owner:?}; accepted: {accepted}")));
    }
    let key = format!("p6_{:032x}", rand::random::<u128>());
    print(format_args!("key:  {key}\nline: {}", ApiKeys::line(owner, &key)))
}
