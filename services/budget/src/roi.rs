//! Which workflows bring most for their money. Pure.
//!
//! `roi = gain / (cost + 0.001)`, with the cost in dollars, times a factor by cost tier that favours
//! what is cheap. A cost of nothing is a cost, not a missing one.

use serde::Serialize;
use utoipa::ToSchema;

use crate::money::Micros;

/// A workflow's place in the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rank {
    /// What it costs, in dollars.
    #[schema(value_type = f64)]
    pub cost: Micros,
    /// Gain for its money.
    pub roi: f64,
    /// `free`, `economy`, `standard` or `premium`.
    pub cost_tier: &'static str,
    /// The factor of its tier.
    pub efficiency_coeff: f64,
    /// The return times the factor: what is ranked by.
    #[serde(rename = "weightedROI")]
    pub weighted_roi: f64,
}

/// The names under which a rank is shown, besides `cost`.
pub const NAMES: [&str; 4] = ["roi", "costTier", "efficiencyCoeff", "weightedROI"];

/// Ranks a workflow of an expected gain at a cost.
pub fn rank(gain: f64, cost: Micros) -> Rank {
    let dollars = cost.dollars();
    let (cost_tier, efficiency_coeff) = match cost.get() {
        0 => ("free", 1.8),
        ..10_000 => ("economy", 1.5),
        10_000..15_000 => ("standard", 1.0),
        15_000..20_000 => ("premium", 0.8),
        _ => ("premium", 0.5),
    };
    let roi = gain / (dollars + 0.001);
    Rank { cost, roi, cost_tier, efficiency_coeff, weighted_roi: roi * efficiency_coeff }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The original took zero for missing and ranked free providers as if they cost a cent.
    #[test]
    fn a_cost_of_nothing_is_a_cost() {
        let free = rank(0.5, Micros::ZERO);
        assert_eq!((free.cost_tier, free.roi), ("free", 500.0));
        assert!(free.weighted_roi.is_finite());
        assert!(free.weighted_roi > rank(0.5, Micros::new(8_000)).weighted_roi);
    }

    #[test]
    fn a_rank_is_shown_under_its_names() {
        let shown = serde_json::to_value(rank(1.0, Micros::ZERO)).unwrap();
        let mut names: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        names.retain(|name| *name != "cost");
        names.sort_unstable();
        let mut known = NAMES;
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn tiers_follow_the_cost() {
        let tier = |micros| {
            let rank = rank(1.0, Micros::new(micros));
            (rank.cost_tier, rank.efficiency_coeff)
        };
        assert_eq!(tier(9_999), ("economy", 1.5));
        assert_eq!(tier(12_500), ("standard", 1.0));
        assert_eq!(tier(15_000), ("premium", 0.8));
        assert_eq!(tier(20_000), ("premium", 0.5));
    }
}
