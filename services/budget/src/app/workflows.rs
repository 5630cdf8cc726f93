//! Use cases of workflows: charged to cohorts, and ranked by their return on investment.

use std::sync::Arc;

use phase6_chassis::{
    identity::Name,
    store::{StoreError, Tx},
};

use super::{AppState, tags};
use crate::model::{
    InvalidValue, MicroDollars,
    cohort::{CohortId, CohortMetrics},
    roi::{self, Candidate, MAX_WORKFLOWS, Ranked},
    workflow::{RecordOutcome, ReportedWorkflow, Workflow},
};

/// Maximum number of workflows in each list of a ranking.
const RANKING_LENGTH: usize = 10;

/// A workflow after it was recorded.
#[derive(Clone, Debug)]
pub struct RecordedWorkflow {
    /// Workflow as it is recorded.
    pub workflow: Workflow,
    /// True if it was charged now, false if it had been before.
    pub is_new: bool,
    /// Metrics of the cohort, including the workflow.
    pub metrics: CohortMetrics,
}

/// Failure to record a workflow.
#[derive(Debug, thiserror::Error)]
pub enum RecordWorkflowError {
    /// A value is outside of its range.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// A different workflow of the cohort has this identifier.
    #[error("workflow {workflow_id:?} of this cohort was recorded with other values")]
    Conflict {
        /// Identifier of the workflow.
        workflow_id: String,
    },
    /// The database cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ranking of workflows.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// The best ten workflows.
    pub best: Vec<Ranked>,
    /// The best ten workflows that the budget of the cohort allows.
    pub affordable: Vec<Ranked>,
    /// Remaining budget of the cohort for the month, if a cohort was given.
    pub budget_remaining: Option<MicroDollars>,
}

/// Failure to rank workflows.
#[derive(Debug, thiserror::Error)]
pub enum RankingError {
    /// A value is outside of its range.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AppState {
    /// Charges a workflow to its cohort of `tenant`, once, within a transaction.
    ///
    /// # Errors
    ///
    /// See [`RecordWorkflowError`].
    pub async fn record_workflow(
        self: &Arc<Self>,
        tx: &mut Tx,
        tenant: &Name,
        workflow: ReportedWorkflow,
    ) -> Result<RecordedWorkflow, RecordWorkflowError> {
        let price = self.prices.of(workflow.provider).per_call;
        let workflow = workflow.check(price)?;
        let outcome = self.cohorts.record(tx, tenant, &workflow).await?;
        match outcome {
            RecordOutcome::Conflict => {
                let workflow_id = workflow.id.as_str().to_owned();
                return Err(RecordWorkflowError::Conflict { workflow_id });
            }
            RecordOutcome::Recorded => {
                let (state, tenant, cohort) =
                    (Arc::clone(self), tenant.clone(), tags::cohort(&workflow.cohort));
                tx.after_commit(move || {
                    state.invalidate(Some(&tenant), tags::COHORTS);
                    state.invalidate(Some(&tenant), cohort);
                });
            }
            RecordOutcome::AlreadyRecorded => {}
        }
        let metrics = self.cohorts.metrics_in(tx, tenant, &workflow.cohort).await?;
        Ok(RecordedWorkflow { workflow, is_new: outcome == RecordOutcome::Recorded, metrics })
    }

    /// Ranks workflows by their return on investment. With a cohort, its remaining budget decides
    /// which workflows are affordable.
    ///
    /// # Errors
    ///
    /// See [`RankingError`].
    pub async fn rank_workflows(
        &self,
        tenant: &Name,
        workflows: &[Candidate],
        cohort: Option<&CohortId>,
    ) -> Result<Ranking, RankingError> {
        if workflows.len() > MAX_WORKFLOWS {
            let value = format!("a list of {} items", workflows.len());
            let accepted = format!("at most {MAX_WORKFLOWS} items");
            return Err(InvalidValue::new("workflows", value, accepted).into());
        }
        let budget_remaining = match cohort {
            Some(cohort) => Some(self.cohorts.metrics(tenant, cohort).await?.budget_remaining),
            None => None,
        };
        let mut best = roi::rank(workflows, &self.prices)?;
        let is_affordable =
            |workflow: &&Ranked| budget_remaining.is_none_or(|budget| workflow.score.cost <= budget);
        let affordable = best.iter().filter(is_affordable).take(RANKING_LENGTH).cloned().collect();
        best.truncate(RANKING_LENGTH);
        Ok(Ranking { best, affordable, budget_remaining })
    }
}
