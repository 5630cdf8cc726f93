//! Money in whole micro-dollars. No amount is ever held as a float; JSON shows dollars with up to
//! six decimals.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Largest amount that is accepted: a billion dollars.
const MOST: i64 = 1_000_000_000_000_000;

/// An amount of money that is not negative, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(i64);

impl Micros {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From whole micro-dollars; negative ones count as none, too large ones as the largest.
    pub const fn new(micros: i64) -> Self {
        if micros < 0 {
            Self(0)
        } else if micros > MOST {
            Self(MOST)
        } else {
            Self(micros)
        }
    }

    /// From dollars, if they can be an amount; rounded to the nearest micro-dollar.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let micros = (dollars * 1e6).round();
        // The sign is looked at before rounding: a loss of less than a micro-dollar is no amount, too.
        (dollars >= 0.0 && micros <= MOST as f64).then_some(Self(micros as i64))
    }

    /// Whole micro-dollars.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// In dollars, for showing and for ratios.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The sum, at most the largest amount.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self::new(self.0.saturating_add(other.0))
    }

    /// The difference, at least nothing.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self::new(self.0.saturating_sub(other.0))
    }

    /// The price of `tokens` at a price for a million, rounded up.
    #[must_use]
    pub fn for_tokens(self, tokens: u64) -> Self {
        let product = i128::from(self.0) * i128::from(tokens);
        Self::new(i64::try_from((product + 999_999) / 1_000_000).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let decimals = format!("{rest:06}");
        let decimals = decimals.trim_end_matches('0');
        write!(f, "${whole}.{decimals:0<2}")
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars).ok_or_else(|| {
            de::Error::custom(format_args!("{dollars} is no amount; accepted: dollars from 0 to 1000000000"))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dollars_are_exact_to_the_micro_dollar() {
        assert_eq!(Micros::from_dollars(0.1), Some(Micros::new(100_000)));
        assert_eq!(Micros::from_dollars(0.000_001), Some(Micros::new(1)));
        assert_eq!(serde_json::to_string(&Micros::new(1_234_567)).unwrap(), "1.234567");
        assert_eq!(Micros::new(5_000_000).to_string(), "$5.00");
        assert_eq!(Micros::new(1_234_500).to_string(), "$1.2345");
    }

    #[test]
    fn negative_and_overflowing_money_is_refused() {
        for text in ["-1", "-0.000001", "-0.0000004", "1e30", "1e9999", "\"5\"", "null"] {
            assert!(serde_json::from_str::<Micros>(text).is_err(), "{text}");
        }
        assert_eq!(Micros::from_dollars(-0.0), Some(Micros::ZERO));
        assert_eq!(Micros::from_dollars(f64::NAN), None);
        assert_eq!(Micros::from_dollars(f64::INFINITY), None);
    }

    #[test]
    fn arithmetic_never_leaves_the_range() {
        let most = Micros::new(i64::MAX);
        assert_eq!(most.plus(most), most);
        assert_eq!(Micros::new(1).minus(Micros::new(2)), Micros::ZERO);
        assert_eq!(most.for_tokens(u64::MAX), most);
    }

    #[test]
    fn token_prices_are_rounded_up() {
        assert_eq!(Micros::new(150_000).for_tokens(1), Micros::new(1), "15 cents a million");
        assert_eq!(Micros::new(150_000).for_tokens(1_000_000), Micros::new(150_000));
        assert_eq!(Micros::ZERO.for_tokens(1_000), Micros::ZERO);
    }

    proptest! {
        #[test]
        fn an_amount_survives_json(micros in 0..MOST) {
            let text = serde_json::to_string(&Micros::new(micros)).unwrap();
            let back: Micros = serde_json::from_str(&text).unwrap();
            prop_assert!((back.get() - micros).abs() <= 1, "{text}");
        }
    }
}
