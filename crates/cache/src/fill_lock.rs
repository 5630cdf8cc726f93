//! Whose duty it is to make an answer that several replicas want. Pure, with an explicit clock.
//!
//! ```text
//!   nobody makes it -> the first to ask is to, prolongs its duty while that lasts, and says when it has landed
//!   somebody does   -> wait for that word, without asking again
//!   it was lost     -> the first of those who waited makes the next one
//! ```
//!
//! [`Duty`] is what the shared state knows of it, and decides as the scripts in `remote/` do; [`Search`] is what
//! a replica does that looks for the answer. A duty that is not prolonged, because its replica died, ends by
//! itself.

use std::time::Duration;

/// How long a duty lasts if nobody prolongs it; nobody waits longer for the word.
pub const LASTS: Duration = Duration::from_secs(3);
/// How often it is prolonged.
pub const PROLONGED: Duration = Duration::from_secs(1);
/// Nobody waits longer for another replica's answer, however long that works on it.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The duty to make one answer, in the shared state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duty {
    /// Who makes the answer, and until when that holds, in milliseconds.
    maker: Option<(u64, u64)>,
    awaited_until_ms: u64,
}

impl Duty {
    /// Whether `who` is to make the answer, and for so long if nothing more is heard of it. If not, it waits
    /// for whoever does.
    pub fn ask(&mut self, who: u64, lasts_ms: u64, now_ms: u64) -> bool {
        if self.is_of(now_ms).is_some() {
            self.awaited_until_ms = now_ms + lasts_ms;
            return false;
        }
        self.maker = Some((who, now_ms + lasts_ms));
        true
    }

    /// Goes on, if it is still the duty of `who`.
    pub fn prolong(&mut self, who: u64, lasts_ms: u64, now_ms: u64) -> bool {
        let holds = self.is_of(now_ms) == Some(who);
        if holds {
            self.maker = Some((who, now_ms + lasts_ms));
        }
        holds
    }

    /// Ends, if it is still the duty of `who`. True: others wait, and are to be told.
    pub fn landed(&mut self, who: u64, now_ms: u64) -> bool {
        let holds = self.is_of(now_ms) == Some(who);
        if holds {
            self.maker = None;
        }
        holds && std::mem::take(&mut self.awaited_until_ms) > now_ms
    }

    fn is_of(&self, now_ms: u64) -> Option<u64> {
        self.maker.filter(|(_, until_ms)| *until_ms > now_ms).map(|(who, _)| who)
    }
}

/// What is asked for beside the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing more.
    Answer,
    /// The duty to make one, if there is none.
    DutyIfNone,
    /// The duty to make one, even if there is one.
    Duty,
}

/// The last word of a replica that made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is there, if it can be shared.
    Landed,
    /// It was forgotten while it was made.
    Lost,
}

/// What a look at the shared state found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// What there is.
    pub stored: Stored,
    /// Who is to make an answer.
    pub duty: Whose,
}

/// What is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// Nothing, or nothing that will do.
    #[default]
    Nothing,
    /// An answer that was forgotten since its making began.
    Forgotten,
    /// One that will do.
    WillDo,
}

/// Whose duty it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// That was not asked, or not answered.
    #[default]
    Unknown,
    /// This replica's.
    Own,
    /// Another one's.
    Others,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look once more.
    Look(Wanted),
    /// Wait for the word that the answer has landed, at most [`LASTS`].
    Wait,
    /// That was all: what was found is used, or this replica makes the answer.
    End,
}

/// One replica's search for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    may_wait: bool,
    looks: u32,
}

impl Search {
    /// Begins. One that may not wait, because it would not hear the word, takes no duty either.
    pub fn begin(may_wait: bool) -> (Self, Wanted) {
        let wanted = if may_wait { Wanted::DutyIfNone } else { Wanted::Answer };
        (Self { may_wait, looks: 0 }, wanted)
    }

    /// Goes on after a look, `searched` after its begin.
    pub fn looked(&mut self, seen: Seen, searched: Duration) -> Next {
        self.looks += 1;
        match (seen.stored, seen.duty) {
            (Stored::WillDo, _) | (_, Whose::Own) => Next::End,
            (_, Whose::Others) if searched > PATIENCE => Next::End,
            (_, Whose::Others) => Next::Wait,
            // There is one that will not do: whoever makes another one may be done by now. Whatever there is, a
            // look for the duty says whose it is.
            (stored, Whose::Unknown) if self.may_wait && (self.looks == 1 || stored == Stored::Forgotten) => {
                Next::Look(Wanted::Duty)
            }
            (_, Whose::Unknown) => Next::End,
        }
    }

    /// Goes on after waiting. If it landed and there is still nothing, it cannot be shared: everybody makes it
    /// for itself. If it was lost, one of those who waited makes the next one. If there was no word of it, it is
    /// still worked on, or the duty has ended.
    pub fn waited(&self, word: Option<Word>) -> Wanted {
        if word == Some(Word::Landed) { Wanted::Answer } else { Wanted::Duty }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_ask_has_the_duty_until_it_ends_and_the_others_are_told() {
        let mut duty = Duty::default();
        assert!(duty.ask(1, 3_000, 0) && !duty.ask(2, 3_000, 10) && !duty.ask(1, 3_000, 10));
        assert!(!duty.landed(2, 20), "it is not its duty");
        assert!(duty.landed(1, 20) && !duty.landed(1, 21), "told once");
        assert!(duty.ask(2, 3_000, 30));
        assert!(!duty.landed(2, 40), "nobody waits");
    }

    #[test]
    fn who_has_waited_long_enough_is_told_no_more() {
        let mut duty = Duty::default();
        assert!(duty.ask(1, 3_000, 0) && !duty.ask(2, 3_000, 10) && duty.prolong(1, 3_000, 2_000));
        let mut earlier = duty;
        assert!(earlier.landed(1, 3_009), "the other one waits yet");
        assert!(!duty.landed(1, 3_010), "it gave up, and looks by itself");
    }

    #[test]
    fn a_duty_that_is_not_prolonged_ends_by_itself() {
        let mut duty = Duty::default();
        assert!(duty.ask(1, 3_000, 0) && duty.prolong(1, 3_000, 1_000) && !duty.prolong(2, 3_000, 1_000));
        assert!(!duty.ask(2, 3_000, 3_999) && duty.ask(2, 3_000, 4_000));
        assert!(!duty.prolong(1, 3_000, 4_001) && !duty.landed(1, 4_001), "it is the other one's now");
    }

    #[test]
    fn a_search_ends_with_an_answer_or_a_duty_and_else_waits_for_who_has_it() {
        let seen = |stored, duty| Seen { stored, duty };
        let (mut search, wanted) = Search::begin(true);
        assert_eq!(wanted, Wanted::DutyIfNone);
        for (seen, next) in [
            (seen(Stored::WillDo, Whose::Unknown), Next::End),
            (seen(Stored::Nothing, Whose::Own), Next::End),
            (seen(Stored::Nothing, Whose::Others), Next::Wait),
            (seen(Stored::WillDo, Whose::Others), Next::End),
            (seen(Stored::Nothing, Whose::Unknown), Next::Look(Wanted::Duty)),
        ] {
            let mut search = search;
            assert_eq!(search.looked(seen, PATIENCE), next, "{seen:?}");
        }
        let others = seen(Stored::Nothing, Whose::Others);
        assert_eq!(search.looked(others, PATIENCE), Next::Wait);
        let words = [Some(Word::Landed), Some(Word::Lost), None];
        assert_eq!(words.map(|word| search.waited(word)), [Wanted::Answer, Wanted::Duty, Wanted::Duty]);
        let forgotten = seen(Stored::Forgotten, Whose::Unknown);
        assert_eq!(
            search.looked(forgotten, Duration::ZERO),
            Next::Look(Wanted::Duty),
            "it is made once more"
        );
        assert_eq!(search.looked(Seen::default(), Duration::ZERO), Next::End, "it cannot be shared");
        let late = PATIENCE + Duration::from_nanos(1);
        assert_eq!(search.looked(others, late), Next::End);
        let (mut alone, wanted) = Search::begin(false);
        assert_eq!((wanted, alone.looked(Seen::default(), Duration::ZERO)), (Wanted::Answer, Next::End));
    }
}
