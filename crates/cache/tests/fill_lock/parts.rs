//! What replicas do and say.

use phase6_cache::duty::{Search, Seen, Wanted, Word};

#[derive(Clone, Copy, Debug)]
pub enum Doing {
    Nothing,
    /// A look is on its way.
    Looking(Search, u64),
    /// Until the word comes, or so long.
    Waiting(Search, u64, u64),
    /// The answer of this edition, until then.
    Making(u64, u64),
    /// It is on its way to the shared state.
    Storing,
}

#[derive(Debug)]
pub struct Replica {
    /// Its name, which nobody had before.
    pub name: u64,
    pub doing: Doing,
    /// The word that came since it looked with a view to waiting.
    pub word: Option<Word>,
    /// The edition of the answer in its memory; 0: none.
    pub knows: u64,
}

/// The duty that a replica has, or may have.
#[derive(Debug)]
pub struct Held {
    pub name: u64,
    pub prolonged_at: u64,
    /// The answer is stored, or lost: the word is said so often still, the next time then.
    pub says: Option<(Word, u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub enum Message {
    Look(u64, Wanted),
    Found(u64, u64, Seen),
    /// No reply came.
    Failed(u64, Wanted),
    Prolong(u64),
    /// The edition.
    Store(u64, u64),
    Stored(u64),
    Over(u64, Word),
    Said(u64),
    /// To everybody that lives when it comes.
    Word(Word),
}
