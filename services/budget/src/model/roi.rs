//! Ranking of workflows by their return on investment.
//!
//! ```text
//! roi         = gain / (cost in dollars + 0.001)
//! weightedROI = roi * coefficient of the cost tier
//! ```
//!
//! The coefficient favors inexpensive workflows. A cost of zero is a cost, not a missing value.

use super::{InvalidValue, MicroDollars, PriceList, ProviderId};

/// Maximum number of workflows in one ranking.
pub const MAX_WORKFLOWS: usize = 1000;
/// Largest accepted gain.
const MAX_GAIN: f64 = 1e6;
const DEFAULT_GAIN: f64 = 0.5;

/// A workflow to rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidate {
    /// Provider that the workflow calls; Ollama if absent.
    pub provider: Option<ProviderId>,
    /// Expected gain, from 0 to 1,000,000; 0.5 if absent.
    pub expected_gain: Option<f64>,
    /// Cost; the provider's price of a call if absent.
    pub cost: Option<MicroDollars>,
}

/// A workflow with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Position in the list that was ranked.
    pub index: usize,
    /// Provider that the workflow calls.
    pub provider: ProviderId,
    /// Expected gain.
    pub expected_gain: f64,
    /// Return on investment.
    pub score: Score,
}

/// Return on investment of a workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Cost of the workflow.
    pub cost: MicroDollars,
    /// Gain per dollar.
    pub roi: f64,
    /// Name of the cost tier: `free`, `economy`, `standard` or `premium`.
    pub cost_tier: &'static str,
    /// Coefficient of the cost tier.
    pub coefficient: f64,
    /// Gain per dollar times the coefficient, which decides the rank.
    pub weighted_roi: f64,
}

impl Score {
    /// Computes the score of a workflow.
    pub fn new(gain: f64, cost: MicroDollars) -> Self {
        let (cost_tier, coefficient) = match cost.get() {
            0 => ("free", 1.8),
            ..10_000 => ("economy", 1.5),
            10_000..15_000 => ("standard", 1.0),
            15_000..20_000 => ("premium", 0.8),
            _ => ("premium", 0.5),
        };
        let roi = gain / (cost.dollars() + 0.001);
        Self { cost, roi, cost_tier, coefficient, weighted_roi: roi * coefficient }
    }
}

/// Ranks workflows by their weighted return on investment, highest first.
///
/// # Errors
///
/// An expected gain is outside of 0 to 1,000,000.
pub fn rank(workflows: &[Candidate], prices: &PriceList) -> Result<Vec<Ranked>, InvalidValue> {
    let mut ranked = Vec::with_capacity(workflows.len());
    for (index, workflow) in workflows.iter().enumerate() {
        let gain = workflow.expected_gain.unwrap_or(DEFAULT_GAIN);
        if !(0.0..=MAX_GAIN).contains(&gain) {
            let field = format!("workflows[{index}].expectedGain");
            return Err(InvalidValue::new(field, gain, format!("a number from 0 to {MAX_GAIN}")));
        }
        let provider = workflow.provider.unwrap_or(ProviderId::Ollama);
        let cost = workflow.cost.unwrap_or_else(|| prices.of(provider).per_call);
        ranked.push(Ranked { index, provider, expected_gain: gain, score: Score::new(gain, cost) });
    }
    ranked.sort_by(|a, b| b.score.weighted_roi.total_cmp(&a.score.weighted_roi));
    Ok(ranked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the original system took zero for a missing cost and ranked free providers as if
    /// they cost a cent.
    #[test]
    fn a_cost_of_zero_is_a_cost() {
        let free = Score::new(0.5, MicroDollars::ZERO);
        assert_eq!((free.cost_tier, free.roi), ("free", 500.0));
        assert!(free.weighted_roi.is_finite());
        assert!(free.weighted_roi > Score::new(0.5, MicroDollars::new(8_000)).weighted_roi);
    }

    #[test]
    fn the_cost_decides_the_tier() {
        let tier = |micros| {
            let score = Score::new(1.0, MicroDollars::new(micros));
            (score.cost_tier, score.coefficient)
        };
        assert_eq!(tier(9_999), ("economy", 1.5));
        assert_eq!(tier(12_500), ("standard", 1.0));
        assert_eq!(tier(15_000), ("premium", 0.8));
        assert_eq!(tier(20_000), ("premium", 0.5));
    }

    #[test]
    fn ranks_by_weighted_roi_and_names_a_bad_gain_by_its_index() {
        let workflow = |gain, cost| Candidate {
            provider: None,
            expected_gain: Some(gain),
            cost: Some(MicroDollars::new(cost)),
        };
        let prices = PriceList::default();
        let ranked = rank(&[workflow(0.5, 20_000), workflow(0.5, 0)], &prices).unwrap();
        assert_eq!(ranked.iter().map(|workflow| workflow.index).collect::<Vec<_>>(), [1, 0]);
        let error = rank(&[workflow(0.5, 0), workflow(-1.0, 0)], &prices).unwrap_err();
        assert_eq!(
            error.to_string(),
            "field `workflows[1].expectedGain` is -1; accepted: a number from 0 to 1000000"
        );
    }
}
