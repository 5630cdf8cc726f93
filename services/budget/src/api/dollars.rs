//! Money in JSON: dollars with up to six decimals.

use serde::{Deserialize, Deserializer, de};

use crate::model::MicroDollars;

/// Amount of money in a request, in dollars.
///
/// Responses show amounts as [`MicroDollars::dollars`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Dollars(pub(super) MicroDollars);

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        MicroDollars::from_dollars(dollars).map(Self).ok_or_else(|| {
            let max = MicroDollars::MAX.dollars();
            de::Error::custom(format_args!(
                "{dollars} is not an amount of money; accepted: dollars from 0 to {max}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn responses_show_every_micro_dollar() {
        let dollars = MicroDollars::new(1_234_567).dollars();
        assert_eq!(serde_json::to_string(&dollars).unwrap(), "1.234567");
    }

    #[test]
    fn rejects_negative_and_overflowing_money() {
        for text in ["-1", "-0.000001", "-0.0000004", "1e30", "1e9999", "\"5\"", "null"] {
            assert!(serde_json::from_str::<Dollars>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_names_what_is_accepted() {
        let error = serde_json::from_str::<Dollars>("-1").unwrap_err().to_string();
        assert!(
            error.contains("-1 is not an amount of money; accepted: dollars from 0 to 1000000000"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn an_amount_survives_json(micros in 0..MicroDollars::MAX.get()) {
            let text = serde_json::to_string(&MicroDollars::new(micros).dollars()).unwrap();
            let Dollars(amount) = serde_json::from_str(&text).unwrap();
            prop_assert!((amount.get() - micros).abs() <= 1, "{text}");
        }
    }
}
