//! The rules at work on synthetic learning curves that arrive in random order.

use crate::recipe::Recipe;
use crate::report::Cell;
use crate::study::{Measured, Next, Study, TrialView};
use proto::{FailureClass, Inputs, Outcome, TrialId, TrialSpec};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

const ASHA: &str = "asha: {min_steps: 1, max_steps: 81}";
const HYPERBAND: &str = "hyperband: {min_steps: 1, max_steps: 81}";
const MEDIAN: &str = "median: {grace_steps: 3, every_steps: 13, max_steps: 81}";

fn study(rule: &str, points: u64, goal: &str) -> Box<dyn Study> {
    with_seeds(rule, points, goal, "[0]")
}

fn with_seeds(rule: &str, points: u64, goal: &str, seeds: &str) -> Box<dyn Study> {
    let text = format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: a}}\nspec:\n  study:\n    \
         sweep:\n      command: {{arguments: [x]}}\n      \
         parameters: {{n: {{range: [0, {points}]}}}}\n      search: grid\n      \
         seeds: {seeds}\n      \
         metric: {{name: loss, goal: {goal}}}\n      early_stopping:\n        {rule}\n"
    );
    Recipe::parse(&text).unwrap().study(&Inputs::default()).unwrap()
}

/// What the coordinator would record.
#[derive(Debug, Clone, PartialEq)]
enum Fact {
    Drawn,
    /// Trial, rung and value.
    Measured(usize, u64, f64),
    Completed(usize, f64),
    Stopped(usize, String),
}

/// An experiment as the study sees it.
struct Lab {
    study: Box<dyn Study>,
    trials: Vec<(TrialId, TrialSpec, Vec<Measured>, Option<Outcome>)>,
    facts: Vec<Fact>,
}

impl Lab {
    fn new(study: Box<dyn Study>) -> Self {
        Self { study, trials: Vec::new(), facts: Vec::new() }
    }

    fn views(&self) -> Vec<TrialView<'_>> {
        let mut views = Vec::new();
        for (id, spec, measured, outcome) in &self.trials {
            views.push(TrialView { id, spec, attempts: 1, outcome: outcome.as_ref(), measured });
        }
        views
    }

    fn apply(&mut self, fact: Fact) {
        match &fact {
            Fact::Drawn => {
                let spec = self.study.trial(self.trials.len() as u64).unwrap();
                self.trials.push((spec.id(), spec, Vec::new(), None));
            }
            Fact::Measured(trial, rung, value) => {
                let order = self.facts.len() as u64;
                self.trials[*trial].2.push(Measured { rung: *rung, value: *value, order });
            }
            Fact::Completed(trial, value) => {
                let metrics = BTreeMap::from([("loss".to_owned(), *value)]);
                let outcome = Outcome::Completed { metrics, checkpoint: None };
                assert!(self.trials[*trial].3.replace(outcome).is_none());
            }
            Fact::Stopped(trial, reason) => {
                let outcome = Outcome::failed(FailureClass::Pruned, reason.clone());
                assert!(self.trials[*trial].3.replace(outcome).is_none(), "stopped twice");
            }
        }
        self.facts.push(fact);
    }

    /// Applies `fact` and every end that the study asks for after it.
    fn settle(&mut self, fact: Fact) {
        self.apply(fact);
        while let Some(stop) = self.stop() {
            self.apply(stop);
        }
    }

    fn stop(&self) -> Option<Fact> {
        let answer = self.study.next(&self.views());
        assert_eq!(self.study.next(&self.views()), answer, "one history, two answers");
        match answer {
            Next::Stop { trials, reason } => {
                assert_eq!(trials.len(), 1);
                let place = self.trials.iter().position(|trial| trial.0 == trials[0]);
                let Some(place) = place else { panic!("{} is no trial", trials[0]) };
                Some(Fact::Stopped(place, reason))
            }
            Next::Wait | Next::Complete => None,
            other @ (Next::Plan { .. } | Next::PlanRange { .. }) => panic!("{other:?}"),
        }
    }

    fn stopped(&self) -> BTreeSet<usize> {
        let stopped = |fact: &Fact| match fact {
            Fact::Stopped(trial, _) => Some(*trial),
            Fact::Drawn | Fact::Measured(..) | Fact::Completed(..) => None,
        };
        self.facts.iter().filter_map(stopped).collect()
    }

    fn saved(&self) -> f64 {
        let summary = self.study.report(&self.views()).summary;
        summary["early_stopping"]["steps_saved"].as_f64().unwrap()
    }
}

/// Final losses, uniform in 0..1. The curves fall to them together, and the noise of a value falls
/// with its step, from 0.1 at step 1, so values of one step are nearly in the final order.
fn finals(trials: u64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    (0..trials).map(|_| rng.random_range(0.0..1.0)).collect()
}

fn value(last: f64, step: u64, rng: &mut ChaCha8Rng) -> f64 {
    let noise: f64 = rng.random_range(-0.1..0.1);
    last + 2.0 / (step as f64).sqrt() + noise / step as f64
}

/// Runs all trials, `agents` at once, each as fast as chance has it.
fn simulate(rule: &str, last: &[f64], agents: usize, rng: &mut ChaCha8Rng) -> Lab {
    let mut lab = Lab::new(study(rule, last.len() as u64, "minimize"));
    let rungs = lab.study.watch().unwrap().rungs.to_vec();
    let mut open: Vec<(usize, usize)> = Vec::new();
    loop {
        while open.len() < agents && lab.trials.len() < last.len() {
            open.push((lab.trials.len(), 0));
            lab.apply(Fact::Drawn);
        }
        let Some(&(trial, passed)) = open.choose(rng) else {
            return lab;
        };
        let fact = match rungs.get(passed) {
            Some(rung) => Fact::Measured(trial, *rung, value(last[trial], *rung, rng)),
            None => Fact::Completed(trial, last[trial]),
        };
        lab.settle(fact);
        open.iter_mut().filter(|other| other.0 == trial).for_each(|other| other.1 += 1);
        open.retain(|(trial, _)| lab.trials[*trial].3.is_none());
    }
}

fn best(values: &[f64]) -> usize {
    (0..values.len()).min_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap()
}

#[test]
fn a_replay_stops_the_same_trials_for_the_same_reasons() {
    for (seed, rule) in (0..).zip([ASHA, HYPERBAND, MEDIAN]) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let last = finals(120, &mut rng);
        let lab = simulate(rule, &last, 9, &mut rng);
        let stopped = lab.stopped();
        assert!(stopped.len() > 30, "{rule}: {}", stopped.len());

        // Fact by fact on a new study.
        let mut replay = Lab::new(study(rule, 120, "minimize"));
        for fact in &lab.facts {
            match fact {
                Fact::Drawn => replay.apply(Fact::Drawn),
                Fact::Stopped(..) => {}
                Fact::Measured(..) | Fact::Completed(..) => replay.settle(fact.clone()),
            }
        }
        assert_eq!(replay.facts, lab.facts, "{rule}");

        // All at once: what came later changes no decision.
        let mut late = Lab::new(study(rule, 120, "minimize"));
        for fact in &lab.facts {
            match fact {
                // It takes a place in the order, as it did then.
                Fact::Stopped(..) => late.facts.push(fact.clone()),
                Fact::Drawn | Fact::Measured(..) | Fact::Completed(..) => late.apply(fact.clone()),
            }
        }
        late.facts.clear();
        while let Some(stop) = late.stop() {
            late.apply(stop);
        }
        let ends = lab.facts.iter().filter(|fact| matches!(fact, Fact::Stopped(..)));
        assert!(late.facts.iter().eq(ends), "{rule}");
    }
}

/// The best trial is among the best of any that arrived, but for the noise: a value of another
/// trial is below its value with a chance of 1/30 at every rung (the mean of the positive part of a
/// difference of two uniform numbers, over the spread of those that are left). It is stopped when
/// two or three are there and one is below, or among the first six when two are, and so on: in all
/// with a chance of about 0.1 / n at a rung that n trials reach. For 200 trials and eta 3 that is
/// 0.02 over all rungs; in 60 experiments more than 6 ends have a chance below 1e-3. The median
/// rule stops it less often still.
#[test]
fn the_best_trial_survives_and_most_steps_are_saved() {
    for (rule, saved_min) in [(ASHA, 0.9), (HYPERBAND, 0.7), (MEDIAN, 0.3)] {
        let (mut ended, mut saved) = (0, 0.0);
        for seed in 0..60 {
            let mut rng = ChaCha8Rng::seed_from_u64(1_000 + seed);
            let last = finals(200, &mut rng);
            let agents = rng.random_range(1..40);
            let lab = simulate(rule, &last, agents, &mut rng);
            ended += usize::from(lab.stopped().contains(&best(&last)));
            saved += lab.saved() / 60.0;
            assert_eq!(lab.study.next(&lab.views()), Next::Complete);
        }
        assert!(ended <= 6, "{rule}: {ended} of 60");
        assert!(saved > saved_min, "{rule}: {saved}");
    }
}

#[test]
fn every_bracket_watches_its_own_rungs_only() {
    let watched = |rule: &str| study(rule, 9, "minimize").watch().unwrap().rungs.to_vec();
    assert_eq!(watched(ASHA), [1, 3, 9, 27]);
    assert_eq!(watched(HYPERBAND), [1, 3, 9, 27]);
    assert_eq!(watched(MEDIAN), [3, 16, 29, 42, 55, 68]);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let last = finals(143, &mut rng);
    let lab = simulate(HYPERBAND, &last, 20, &mut rng);
    let report = lab.study.report(&lab.views());
    let rungs = report.summary["early_stopping"]["rungs"].as_array().unwrap();
    let first = |bracket: u64| {
        let found = rungs.iter().find(|rung| rung["bracket"] == bracket).unwrap();
        (found["step"].as_u64().unwrap(), found["reached"].as_u64().unwrap())
    };
    assert_eq!([4, 3, 2, 1].map(first), [(1, 81), (3, 34), (9, 15), (27, 8)]);
    assert!(rungs.iter().all(|rung| rung["bracket"] != 0), "bracket 0 stops nobody");
}

/// Four trials under `asha` with rungs 1 and 3; `sign` turns losses into gains.
fn four(goal: &str, sign: f64) -> Lab {
    let mut lab = Lab::new(study("asha: {min_steps: 1, max_steps: 9}", 4, goal));
    (0..4).for_each(|_| lab.apply(Fact::Drawn));
    for fact in [
        Fact::Measured(0, 1, sign * 0.5),
        Fact::Measured(1, 1, sign * 0.9),
        Fact::Measured(2, 1, sign * 0.4),
        Fact::Measured(2, 3, sign * 0.3),
        Fact::Measured(0, 3, sign * 0.35),
        Fact::Measured(3, 1, f64::NAN),
        Fact::Completed(2, sign * 0.2),
    ] {
        lab.settle(fact);
    }
    lab
}

#[test]
fn the_reason_names_rung_value_and_cut() {
    let reasons = |lab: &Lab| -> Vec<String> {
        let reason = |fact: &Fact| match fact {
            Fact::Stopped(trial, reason) => Some(format!("{trial} {reason}")),
            Fact::Drawn | Fact::Measured(..) | Fact::Completed(..) => None,
        };
        lab.facts.iter().filter_map(reason).collect()
    };
    let among = "is not among the best 1/3 of the";
    let expected = [
        format!("1 stopped at step 1: loss 0.9 {among} 2 trials so far (cut 0.5)"),
        format!("0 stopped at step 3: loss 0.35 {among} 2 trials so far (cut 0.3)"),
        format!("3 stopped at step 1: loss not a number {among} 4 trials so far (cut 0.5)"),
    ];
    assert_eq!(reasons(&four("minimize", 1.0)), expected);
    let mirrored = expected.map(|text| text.replace("0.", "-0."));
    assert_eq!(reasons(&four("maximize", -1.0)), mirrored);

    let mut lab = Lab::new(study(
        "median: {grace_steps: 2, every_steps: 2, max_steps: 9, min_trials: 2}",
        3,
        "minimize",
    ));
    (0..3).for_each(|_| lab.apply(Fact::Drawn));
    for (trial, value) in [(0, 1.0), (1, 3.0), (2, 4.0)] {
        lab.settle(Fact::Measured(trial, 2, value));
    }
    let reason = "2 stopped at step 2: the best loss up to there, 4, is worse than the median of the \
                  means of 2 other trials (cut 2)";
    assert_eq!(reasons(&lab), [reason]);
}

#[test]
fn the_report_marks_stopped_trials_and_never_mixes_steps() {
    let lab = four("minimize", 1.0);
    assert_eq!(lab.study.next(&lab.views()), Next::Complete);
    let report = lab.study.report(&lab.views());
    assert_eq!(report.summary["best"]["parameters"]["n"], 2);
    assert_eq!(report.summary["best"]["mean"], 0.2);
    assert_eq!(report.summary["trials"]["stopped"], 3);
    assert_eq!(report.summary["trials"]["failed"], 0);
    let saved = report.summary["early_stopping"]["steps_saved"].as_f64().unwrap();
    assert!((saved - (1.0 - 14.0 / 36.0)).abs() < 1e-12, "{saved}");

    let table = |name: &str| {
        let tables = report.sections.iter().flat_map(|section| &section.tables);
        tables.into_iter().find(|table| table.name == name).unwrap()
    };
    let texts = |name: &str| -> Vec<String> {
        let row = |row: &Vec<Cell>| row.iter().map(Cell::to_text).collect::<Vec<_>>().join(" | ");
        table(name).rows.iter().map(row).collect()
    };
    assert_eq!(texts("rungs"), ["1 | 4 | 2 | 0.5", "3 | 2 | 1 | 0.3"]);
    // The point that came to step 3 with 0.35 stands before the one at step 1, as it would with any
    // value.
    assert_eq!(
        texts("points"),
        [
            "1 | 2 | 0.2 | 1 of 1 | 3 | 0.3",
            "- | 0 | - (no value) | 0 of 1 | 3 | 0.35",
            "- | 1 | - (no value) | 0 of 1 | 1 | 0.9",
            "- | 3 | - (no value) | 0 of 1 | 1 | - (not a number)",
        ]
    );
    let states: Vec<String> =
        table("trials").rows.iter().map(|row| row[3].to_text() + " " + &row[4].to_text()).collect();
    assert_eq!(
        states,
        [
            "stopped at step 3 0.35",
            "stopped at step 1 0.9",
            "completed 0.2",
            "stopped at step 1 not a number",
        ]
    );
}

#[test]
fn all_seeds_of_a_point_are_in_one_bracket() {
    let rule = "hyperband: {min_steps: 1, max_steps: 9}";
    let mut lab = Lab::new(with_seeds(rule, 15, "minimize", "[0, 1, 2]"));
    for trial in 0..45 {
        lab.apply(Fact::Drawn);
        for rung in [1, 3] {
            lab.apply(Fact::Measured(trial, rung, 1.0));
        }
    }
    let report = lab.study.report(&lab.views());
    let rungs = report.summary["early_stopping"]["rungs"].as_array().unwrap();
    let reached: Vec<_> = rungs
        .iter()
        .map(|rung| ["bracket", "step", "reached"].map(|key| rung[key].as_u64().unwrap()))
        .collect();
    // n_s = 9, 5 and 3 of 17 points; the first 15 of them leave out two of bracket 2.
    assert_eq!(
        reached.iter().map(|rung| rung[..2].to_vec()).collect::<Vec<_>>(),
        [[1, 3], [2, 1], [2, 3]]
    );
    assert!(reached.iter().all(|rung| rung[2] % 3 == 0), "{reached:?}");
}

#[test]
fn a_point_with_stopped_seeds_has_the_mean_where_all_of_them_were() {
    let rule = "asha: {min_steps: 1, max_steps: 9}";
    let mut lab = Lab::new(with_seeds(rule, 2, "minimize", "[0, 1]"));
    (0..4).for_each(|_| lab.apply(Fact::Drawn));
    for fact in [
        Fact::Measured(0, 1, 0.2),
        Fact::Measured(0, 3, 0.1),
        Fact::Completed(0, 0.05),
        Fact::Measured(1, 1, 0.4),
        Fact::Measured(2, 1, 0.1),
        Fact::Measured(2, 3, 0.3),
    ] {
        lab.settle(fact);
    }
    let report = lab.study.report(&lab.views());
    assert_eq!(report.summary["best"], serde_json::Value::Null, "no point has all its seeds");
    let tables = report.sections.iter().flat_map(|section| &section.tables);
    let points = tables.into_iter().find(|table| table.name == "points").unwrap();
    let row = |row: &Vec<Cell>| row[1..].iter().map(Cell::to_text).collect::<Vec<_>>().join(" | ");
    // 0.3 +- 12.706205 * 0.1, at step 1 although one seed completed.
    assert_eq!(
        points.rows.iter().map(row).collect::<Vec<_>>(),
        ["0 | 0.05 | 1 of 2 | 1 | 0.3000 [-0.9706, 1.571]", "1 | - (no value) | 0 of 2 | - | -",]
    );
}

#[test]
fn a_report_before_the_first_measurement_has_all_rungs() {
    let lab = Lab::new(study(ASHA, 4, "minimize"));
    let report = lab.study.report(&[]);
    let section = report.sections.iter().find(|section| section.heading == "Early stopping");
    let section = section.unwrap();
    assert_eq!(section.text[1], "No trial has ended yet.");
    assert_eq!(section.tables[0].rows.len(), 4);
    assert!(lab.study.wants_each_outcome());
}
