//! `phase6 key`: makes an API key.

use phase6_chassis::ApiKeys;

use crate::{args::Key, ending::Ending, output::print};

pub(crate) fn run(arguments: &Key) -> Result<(), Ending> {
    let owner = &arguments.owner;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if owner.is_empty() || owner.len() > 64 || !owner.chars().all(plain) {
        let accepted = "1 to 64 letters, digits, dashes, dots, underscores or @";
        return Err(Ending::Usage(format!("OWNER is {owner:?}; accepted: {accepted}")));
    }
    let key = format!("p6_{:032x}", rand::random::<u128>());
    print(format_args!("key:  {key}\nline: {}", ApiKeys::line(owner, &key)))
}
