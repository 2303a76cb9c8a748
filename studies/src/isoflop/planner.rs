//! Which trainings come next.

use super::closed_loop::{Decision, decide};
use super::findings;
use super::grid::Cell;
use super::history::{BUDGET, State, Training};
use super::report;
use super::spec::IsoflopSpec;
use crate::recipe::TrialSettings;
use crate::report::Report;
use crate::study::{Next, Study, TrialView};
use proto::train::NUMERICS_VERSION;
use proto::{DataSpec, Runner, TrainSpec, TrialSpec, Value};
use std::collections::BTreeMap;

/// An IsoFLOP sweep over one text.
#[derive(Debug)]
pub(super) struct IsoflopStudy {
    pub(super) spec: IsoflopSpec,
    settings: TrialSettings,
    pub(super) data: DataSpec,
}

impl IsoflopStudy {
    pub(super) fn new(spec: IsoflopSpec, settings: TrialSettings, data: DataSpec) -> Self {
        Self { spec, settings, data }
    }

    /// The whole grid. The largest budget comes first: its trials are the longest, so the short
    /// ones fill the gaps at the end, and the extra cells that it may need, the longest of all,
    /// are known early. Within a budget narrow models come first, because they reach the fewest
    /// FLOPs per second.
    pub(super) fn grid(&self) -> Vec<TrialSpec> {
        let budgets = self.spec.flop_budgets.iter().rev();
        let cells = budgets.flat_map(|budget| self.spec.cells_at(*budget));
        cells.flat_map(|cell| self.trials(&cell)).collect()
    }

    /// One trial of a cell for every seed.
    fn trials(&self, cell: &Cell) -> Vec<TrialSpec> {
        let spec = &self.spec;
        let train = TrainSpec {
            numerics: NUMERICS_VERSION,
            model: cell.model.clone(),
            data: self.data.clone(),
            batch: cell.batch,
            steps: cell.steps,
            optimizer: spec.optimizer.at(cell.learning_rate, cell.beta2),
            schedule: spec.optimizer.schedule,
            validation: spec.validation,
            accumulation: spec.training.accumulation,
            ema: spec.training.ema,
            precision: spec.training.precision,
            budget: None,
        };
        // Counts fit i64: the recipe's checks bound them.
        let count = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        let parameters = BTreeMap::from([
            (BUDGET.to_owned(), Value::Number(cell.budget)),
            ("width".to_owned(), count(cell.model.width.into())),
            ("layers".to_owned(), count(cell.model.layers.into())),
            ("heads".to_owned(), count(cell.model.heads.into())),
            ("batch".to_owned(), count(cell.batch.into())),
            ("steps".to_owned(), count(cell.steps)),
            ("learning_rate".to_owned(), Value::Number(cell.learning_rate)),
            ("parameters".to_owned(), count(cell.parameters)),
            ("tokens".to_owned(), count(cell.tokens)),
        ]);
        let trial = |seed: &u64| {
            let runner = Runner::Train(Box::new(train.clone()));
            self.settings.trial(runner, parameters.clone(), *seed)
        };
        spec.seeds.iter().map(trial).collect()
    }

    /// What the closed loop says about each budget, largest first.
    pub(super) fn decisions(&self, trainings: &[Training<'_>]) -> Vec<(f64, Decision)> {
        let budgets = self.spec.flop_budgets.iter().rev();
        let decision = |budget: &f64| {
            let own: Vec<&Training<'_>> =
                trainings.iter().filter(|training| training.budget == *budget).collect();
            (*budget, decide(&self.spec, *budget, &own))
        };
        budgets.map(decision).collect()
    }

    fn extra_cells(&self, trainings: &[Training<'_>]) -> Option<Next> {
        let mut trials = Vec::new();
        let mut reasons = Vec::new();
        for (budget, decision) in self.decisions(trainings) {
            let Decision::Ask { width, why } = decision else {
                continue;
            };
            // The closed loop asks only for widths that have a cell.
            let Ok(cell) = self.spec.cell(budget, width) else {
                continue;
            };
            trials.extend(self.trials(&cell));
            reasons.push(format!("budget {budget:.2e}: width {width}, because {why}"));
        }
        (!trials.is_empty()).then(|| Next::Plan { trials, reason: reasons.join("; ") })
    }
}

impl Study for IsoflopStudy {
    fn next(&self, trials: &[TrialView<'_>]) -> Next {
        // The grid is one plan, recorded as one event: it is in the history whole or not at all.
        if trials.is_empty() {
            let trials = self.grid();
            let budgets = self.spec.flop_budgets.len();
            let reason = format!("the grid: {} trainings at {budgets} budgets", trials.len());
            return Next::Plan { trials, reason };
        }
        let trainings = Training::read_all(&self.spec, trials);
        if let Some(plan) = self.extra_cells(&trainings) {
            return plan;
        }
        if trainings.iter().any(|training| training.state == State::Open) {
            return Next::Wait;
        }
        Next::Complete
    }

    fn warnings(&self, trials: &[TrialView<'_>]) -> Vec<String> {
        findings::warnings(self, &Training::read_all(&self.spec, trials))
    }

    fn report(&self, trials: &[TrialView<'_>]) -> Report {
        report::build(self, &Training::read_all(&self.spec, trials))
    }
}
