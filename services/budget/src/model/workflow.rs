//! Workflows that are charged to cohorts.
//!
//! [`ReportedWorkflow`] is what a caller reports; [`Workflow`] holds checked values only.

use super::{
    InvalidValue, MicroDollars, ProviderId,
    cohort::{CohortId, check_id},
};

/// Largest accepted cost of a workflow.
pub const MAX_WORKFLOW_COST: MicroDollars = MicroDollars::new(1_000_000_000_000);
/// Largest accepted capability gain of a workflow.
const MAX_GAIN: f64 = 1e6;

/// Identifier of a workflow within its cohort: 1 to 128 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowId(String);

impl WorkflowId {
    /// Checks an identifier.
    ///
    /// # Errors
    ///
    /// The identifier is empty, too long, or has control characters.
    pub fn new(id: String) -> Result<Self, InvalidValue> {
        check_id("workflowId", id).map(Self)
    }

    /// Text of the identifier.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A workflow as a caller reports it, not yet checked.
#[derive(Clone, Debug)]
pub struct ReportedWorkflow {
    /// Identifier of the cohort to charge.
    pub cohort_id: String,
    /// Identifier of the workflow within the cohort.
    pub workflow_id: String,
    /// Provider that was paid.
    pub provider: ProviderId,
    /// Cost, from $0 to $1,000,000; the provider's price of a call if absent.
    pub cost: Option<MicroDollars>,
    /// Number of capabilities that the workflow activated, from 0 to 1,000,000.
    pub capability_gain: f64,
}

/// A workflow to charge to a cohort.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// Cohort to charge.
    pub cohort: CohortId,
    /// Identifier of the workflow within the cohort.
    pub id: WorkflowId,
    /// Provider that was paid.
    pub provider: ProviderId,
    /// Cost.
    pub cost: MicroDollars,
    /// Number of capabilities that the workflow activated.
    pub capability_gain: f64,
}

impl ReportedWorkflow {
    /// Checks the values, and uses `default_cost` if no cost is reported.
    ///
    /// # Errors
    ///
    /// A value is outside of its range.
    pub fn check(self, default_cost: MicroDollars) -> Result<Workflow, InvalidValue> {
        if !(0.0..=MAX_GAIN).contains(&self.capability_gain) {
            let accepted = format!("a number from 0 to {MAX_GAIN}");
            return Err(InvalidValue::new("capabilityGain", self.capability_gain, accepted));
        }
        let cost = self.cost.unwrap_or(default_cost);
        if cost > MAX_WORKFLOW_COST {
            let accepted = format!("dollars from 0 to {}", MAX_WORKFLOW_COST.dollars());
            return Err(InvalidValue::new("cost", cost.dollars(), accepted));
        }
        Ok(Workflow {
            cohort: CohortId::new(self.cohort_id)?,
            id: WorkflowId::new(self.workflow_id)?,
            provider: self.provider,
            cost,
            // Turns a negative zero into zero.
            capability_gain: self.capability_gain + 0.0,
        })
    }
}

/// Result of recording a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// The workflow was charged now.
    Recorded,
    /// An identical workflow had been charged before.
    AlreadyRecorded,
    /// A different workflow with this identifier had been charged before.
    Conflict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reported_workflow_costs_at_most_a_million_dollars() {
        let workflow = |cost: Option<i64>| ReportedWorkflow {
            cohort_id: "c".into(),
            workflow_id: "w".into(),
            provider: ProviderId::OpenAi,
            cost: cost.map(MicroDollars::new),
            capability_gain: -0.0,
        };
        let default_cost = MicroDollars::new(7);
        assert_eq!(workflow(None).check(default_cost).unwrap().cost, default_cost);
        let largest = workflow(Some(MAX_WORKFLOW_COST.get())).check(default_cost).unwrap();
        assert!(largest.capability_gain.is_sign_positive());
        let error = workflow(Some(MAX_WORKFLOW_COST.get() + 1)).check(default_cost).unwrap_err();
        assert_eq!(error.to_string(), "field `cost` is 1000000.000001; accepted: dollars from 0 to 1000000");
        let error = ReportedWorkflow { capability_gain: 1e7, ..workflow(None) }.check(default_cost);
        assert_eq!(error.unwrap_err().field, "capabilityGain");
    }

    #[test]
    fn rejects_an_empty_identifier() {
        assert_eq!(WorkflowId::new(String::new()).unwrap_err().field, "workflowId");
    }
}
