//! Money in whole micro-dollars.
//!
//! No amount is held as a floating-point number, and arithmetic saturates instead of leaving the
//! accepted range. The conversion to and from JSON is left to `api`.

use std::fmt;

/// An amount of money from $0 to $1,000,000,000, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroDollars(i64);

impl MicroDollars {
    /// Zero dollars.
    pub const ZERO: Self = Self(0);
    /// The largest accepted amount: a billion dollars.
    pub const MAX: Self = Self(1_000_000_000_000_000);

    /// Creates an amount from whole micro-dollars, clamped to the range from zero to [`Self::MAX`].
    pub const fn new(micros: i64) -> Self {
        if micros < 0 {
            Self::ZERO
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Converts dollars, rounded to the nearest micro-dollar. Returns `None` if `dollars` is
    /// negative, larger than [`Self::MAX`] or not a number.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let micros = (dollars * 1e6).round();
        // The sign is checked before rounding, so that -$0.0000004 is refused as well.
        (dollars >= 0.0 && micros <= Self::MAX.0 as f64).then_some(Self(micros as i64))
    }

    /// Whole micro-dollars.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Dollars as a floating-point number, for JSON and for ratios.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Returns the sum, limited to [`Self::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self::new(self.0.saturating_add(other.0))
    }

    /// Returns the difference, or zero if `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self::new(self.0.saturating_sub(other.0))
    }

    /// Returns the price of `tokens`, rounded up, where `self` is the price of a million tokens.
    #[must_use]
    pub fn for_tokens(self, tokens: u64) -> Self {
        let product = i128::from(self.0) * i128::from(tokens);
        Self::new(i64::try_from((product + 999_999) / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// Dollars with two to six decimals, such as `$1.2345`.
impl fmt::Display for MicroDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let decimals = format!("{rest:06}");
        let decimals = decimals.trim_end_matches('0');
        write!(f, "${whole}.{decimals:0<2}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dollars_are_exact_to_the_micro_dollar() {
        assert_eq!(MicroDollars::from_dollars(0.1), Some(MicroDollars::new(100_000)));
        assert_eq!(MicroDollars::from_dollars(0.000_001), Some(MicroDollars::new(1)));
        assert_eq!(MicroDollars::new(5_000_000).to_string(), "$5.00");
        assert_eq!(MicroDollars::new(1_234_500).to_string(), "$1.2345");
    }

    #[test]
    fn rejects_dollars_outside_of_the_range() {
        for dollars in [-1.0, -0.000_001, -0.000_000_4, 1e30, f64::NAN, f64::INFINITY] {
            assert_eq!(MicroDollars::from_dollars(dollars), None, "{dollars}");
        }
        assert_eq!(MicroDollars::from_dollars(-0.0), Some(MicroDollars::ZERO));
    }

    #[test]
    fn arithmetic_stays_within_the_range() {
        let max = MicroDollars::new(i64::MAX);
        assert_eq!(max, MicroDollars::MAX);
        assert_eq!(max.saturating_add(max), max);
        assert_eq!(MicroDollars::new(1).saturating_sub(MicroDollars::new(2)), MicroDollars::ZERO);
        assert_eq!(max.for_tokens(u64::MAX), max);
    }

    #[test]
    fn token_prices_are_rounded_up() {
        let fifteen_cents_per_million = MicroDollars::new(150_000);
        assert_eq!(fifteen_cents_per_million.for_tokens(1), MicroDollars::new(1));
        assert_eq!(fifteen_cents_per_million.for_tokens(1_000_000), MicroDollars::new(150_000));
        assert_eq!(MicroDollars::ZERO.for_tokens(1_000), MicroDollars::ZERO);
    }

    proptest! {
        #[test]
        fn dollars_convert_back_to_within_a_micro_dollar(micros in 0..MicroDollars::MAX.get()) {
            let amount = MicroDollars::from_dollars(MicroDollars::new(micros).dollars()).unwrap();
            prop_assert!((amount.get() - micros).abs() <= 1);
        }
    }
}
