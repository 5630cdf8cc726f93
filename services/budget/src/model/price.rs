//! The price list: by token where a provider reports tokens, by call where it does not.
//!
//! Guarantees that no call costs more than [`Price::upper_bound`] of its prompt, which is what the
//! daily limit relies on. Reading prices from settings is left to `config`.

use super::{MicroDollars, ProviderId, Usage};

/// Prices of one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Price of a call whose tokens are not known.
    pub per_call: MicroDollars,
    /// Price of a million input tokens.
    pub input_per_million: MicroDollars,
    /// Price of a million output tokens.
    pub output_per_million: MicroDollars,
}

impl Price {
    const FREE: Self = Self::new(0, 0, 0);

    const fn new(per_call: i64, input_per_million: i64, output_per_million: i64) -> Self {
        Self {
            per_call: MicroDollars::new(per_call),
            input_per_million: MicroDollars::new(input_per_million),
            output_per_million: MicroDollars::new(output_per_million),
        }
    }

    /// List prices of the default model of `id`, taken on 2026-11-24 from the providers' own pages:
    /// `gpt-6-luna` (developers.openai.com), `deepseek-flash` at its peak price
    /// (api-docs.deepseek.com), `claude-haiku-4-5` (platform.claude.com). The price of
    /// `gemini-3.5-flash-lite` is the one that reselling gateways list. The router of Hugging Face
    /// forwards to several hosts; its price is above what most of them charge for a model of this
    /// size. Settings override all of them.
    pub(crate) const fn list_price(id: ProviderId) -> Self {
        match id {
            ProviderId::OpenAi => Self::new(10_000, 100_000, 500_000),
            ProviderId::DeepSeek => Self::new(2_000, 300_000, 1_200_000),
            ProviderId::Anthropic => Self::new(12_000, 1_000_000, 5_000_000),
            ProviderId::Gemini => Self::new(4_000, 300_000, 2_500_000),
            ProviderId::HuggingFace => Self::new(5_000, 200_000, 200_000),
            ProviderId::Ollama | ProviderId::LocalAi => Self::FREE,
        }
    }

    /// True if no call is ever charged.
    pub fn is_free(&self) -> bool {
        *self == Self::FREE
    }

    /// True if tokens have a price. Otherwise calls are charged by [`Price::per_call`].
    pub fn is_by_token(&self) -> bool {
        self.input_per_million > MicroDollars::ZERO || self.output_per_million > MicroDollars::ZERO
    }

    /// Cost of a call: by its tokens if they are known and have a price, otherwise by the call.
    pub fn cost(&self, usage: Option<Usage>) -> MicroDollars {
        match usage {
            Some(usage) if self.is_by_token() => self.cost_of_tokens(usage.input, usage.output),
            _ => self.per_call,
        }
    }

    /// True if [`Price::cost`] is an estimate, because tokens have a price but are not known.
    pub fn is_estimate(&self, usage: Option<Usage>) -> bool {
        usage.is_none() && self.is_by_token()
    }

    /// Upper bound of the cost of a call. A token has at least one byte, so a prompt of
    /// `prompt_bytes` has at most that many tokens.
    pub fn upper_bound(&self, prompt_bytes: usize, max_output_tokens: u32) -> MicroDollars {
        // Roles and separators are tokens too.
        const OVERHEAD_TOKENS: u64 = 64;
        let input = prompt_bytes as u64 + OVERHEAD_TOKENS;
        self.cost_of_tokens(input, u64::from(max_output_tokens)).max(self.per_call)
    }

    fn cost_of_tokens(&self, input: u64, output: u64) -> MicroDollars {
        let input = self.input_per_million.for_tokens(input);
        input.saturating_add(self.output_per_million.for_tokens(output))
    }
}

/// Prices of every provider. [`Default`] has the list prices of the default models.
#[derive(Clone, Debug)]
pub struct PriceList {
    prices: [Price; ProviderId::ALL.len()],
}

impl Default for PriceList {
    fn default() -> Self {
        Self { prices: ProviderId::ALL.map(Price::list_price) }
    }
}

impl PriceList {
    /// Prices of `id`.
    pub fn of(&self, id: ProviderId) -> Price {
        self.prices[id as usize]
    }

    /// Prices of `id`, to change them.
    pub fn of_mut(&mut self, id: ProviderId) -> &mut Price {
        &mut self.prices[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Regression: a call with a per-call price was free if its tokens had no price and the provider
    /// reported them.
    #[test]
    fn a_call_costs_its_per_call_price_where_tokens_have_none() {
        let price = Price::new(30_000, 0, 0);
        let usage = Usage { input: 1_000, output: 500 };
        assert_eq!(price.cost(Some(usage)), MicroDollars::new(30_000));
        assert!(!price.is_estimate(None), "a price per call is exact");
        assert_eq!(Price::FREE.cost(Some(usage)), MicroDollars::ZERO);
    }

    proptest! {
        /// The daily limit relies on this: the upper bound is reserved before a call is sent.
        #[test]
        fn no_call_costs_more_than_its_upper_bound(
            bytes in 0..100_000_usize, output in 0..8_192_u32, used_input in 0..100_064_u64, used_output in 0..8_192_u64,
        ) {
            for id in ProviderId::ALL {
                let price = Price::list_price(id);
                let usage = Usage { input: used_input.min(bytes as u64 + 64), output: used_output.min(u64::from(output)) };
                prop_assert!(price.cost(Some(usage)) <= price.upper_bound(bytes, output));
                prop_assert!(price.cost(None) <= price.upper_bound(bytes, output));
            }
        }
    }
}
