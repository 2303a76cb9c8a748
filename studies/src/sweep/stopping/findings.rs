//! What early stopping did.

use super::board::{Board, Rung};
use super::{EarlyStopping, Stopper};
use crate::report::{Cell, Column, Section, Table};
use crate::study::{Measured, TrialView};
use proto::{FailureClass, Outcome};
use serde_json::json;
use std::collections::BTreeMap;

/// What stopping did in an experiment.
pub(in crate::sweep) struct Findings<'a> {
    stopper: &'a Stopper,
    rungs: Vec<(Rung, usize)>,
    stopped: usize,
    /// Share of the steps that were saved, over the trials that completed or were stopped; `None`
    /// before the first.
    saved: Option<f64>,
}

impl Stopper {
    /// The last measurement of the trial at `index`, in planning order, at a rung of its bracket.
    pub(in crate::sweep) fn last(&self, index: usize, view: &TrialView<'_>) -> Option<Measured> {
        let rungs = &self.brackets[self.bracket(index)];
        view.measured.iter().rev().find(|m| rungs.contains(&m.rung)).copied()
    }

    /// Where the trial at `index` was stopped, if it was.
    pub(in crate::sweep) fn end(&self, index: usize, view: &TrialView<'_>) -> Option<Measured> {
        match view.outcome {
            Some(Outcome::Failed { class: FailureClass::Pruned, .. }) => self.last(index, view),
            Some(Outcome::Completed { .. } | Outcome::Diverged { .. } | Outcome::Failed { .. })
            | None => None,
        }
    }

    pub(in crate::sweep) fn findings<'a>(&'a self, trials: &[TrialView<'_>]) -> Findings<'a> {
        let board = Board::new(self, trials);
        let max_steps = self.rule.max_steps();
        let (mut used, mut ended, mut stopped) = (0.0, 0u64, 0);
        let mut stopped_at = BTreeMap::new();
        for (index, view) in trials.iter().enumerate() {
            if let Some(end) = self.end(index, view) {
                *stopped_at.entry((self.bracket(index), end.rung)).or_insert(0usize) += 1;
                stopped += 1;
                ended += 1;
                used += end.rung as f64;
            } else if matches!(view.outcome, Some(Outcome::Completed { .. })) {
                ended += 1;
                used += max_steps as f64;
            }
        }
        let all = ended as f64 * max_steps as f64;
        let with_stopped = |rung: Rung| {
            let stopped = stopped_at.get(&(rung.bracket, rung.step)).copied().unwrap_or(0);
            (rung, stopped)
        };
        Findings {
            stopper: self,
            rungs: board.rungs.into_iter().map(with_stopped).collect(),
            stopped,
            saved: (ended > 0).then(|| 1.0 - used / all),
        }
    }
}

impl Findings<'_> {
    /// For people.
    pub(in crate::sweep) fn section(&self) -> Section {
        let saved = match self.saved {
            Some(saved) => format!(
                "{} trials were stopped, which saved {:.1} % of the steps of those that ended so \
                 far, against {} steps each. A stopped trial counts up to the rung that stopped \
                 it; it did a few steps more until it heard of that.",
                self.stopped,
                100.0 * saved,
                self.stopper.rule.max_steps()
            ),
            None => "No trial has ended yet.".into(),
        };
        Section {
            heading: "Early stopping".into(),
            text: vec![self.rule(), saved],
            tables: vec![self.table()],
            ..Section::default()
        }
    }

    /// The rule in one sentence.
    fn rule(&self) -> String {
        match &self.stopper.rule {
            EarlyStopping::Asha(rule) => format!(
                "Asynchronous successive halving: at each rung a trial went on if it was among \
                 the best 1/{} (rounded up) of those that had arrived there.",
                rule.eta
            ),
            EarlyStopping::Hyperband(rule) => format!(
                "Hyperband with {} asynchronous brackets: at each rung a trial went on if it was \
                 among the best 1/{} (rounded up) of those of its bracket that had arrived there.",
                rule.s_max() + 1,
                rule.eta
            ),
            EarlyStopping::Median(rule) => format!(
                "Median stopping: at each rung a trial was stopped if its best value was worse \
                 than the median of the running means of the others that had arrived there, once \
                 there were {}.",
                rule.min_trials
            ),
        }
    }

    fn table(&self) -> Table {
        let several = self.stopper.brackets.len() > 1;
        let mut columns = Vec::new();
        if several {
            columns.push(Column::number("bracket", ""));
        }
        columns.extend([
            Column::number("rung", "steps"),
            Column::number("reached", "trials"),
            Column::number("stopped", "trials"),
            Column::number("cut", self.stopper.metric.name.as_str()),
        ]);
        let row = |(rung, stopped): &(Rung, usize)| {
            let mut cells = Vec::new();
            if several {
                cells.push(Cell::Number(rung.bracket as f64));
            }
            cells.extend([
                Cell::Number(rung.step as f64),
                Cell::Number(rung.entries.len() as f64),
                Cell::Number(*stopped as f64),
                match self.cut(rung) {
                    Some(cut) => Cell::Number(cut),
                    None => Cell::missing("everyone goes on"),
                },
            ]);
            cells
        };
        Table {
            name: "rungs".into(),
            caption: "Where trials were compared. The cut is the worst value with which a trial \
                      would go on now; it was another when earlier ones arrived."
                .into(),
            columns,
            rows: self.rungs.iter().map(row).collect(),
        }
    }

    fn cut(&self, rung: &Rung) -> Option<f64> {
        self.stopper.rule.cut(&rung.entries).map(|cut| self.stopper.value_of(cut))
    }

    /// For programs.
    pub(in crate::sweep) fn summary(&self) -> serde_json::Value {
        let rung = |(rung, stopped): &(Rung, usize)| {
            json!({
                "bracket": rung.bracket,
                "step": rung.step,
                "reached": rung.entries.len(),
                "stopped": stopped,
                "cut": self.cut(rung),
            })
        };
        json!({
            "rule": self.stopper.rule.word(),
            "settings": self.stopper.rule,
            "stopped": self.stopped,
            "steps_saved": self.saved,
            "rungs": self.rungs.iter().map(rung).collect::<Vec<_>>(),
        })
    }
}
