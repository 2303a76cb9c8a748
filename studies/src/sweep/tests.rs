use super::spec::{GRID_TRIALS_MAX, RANDOM_TRIALS_MAX};
use crate::recipe::Recipe;
use crate::report::{Cell, Report};
use crate::study::{Next, Study, TrialView};
use proto::{BlobId, BlobRef, FailureClass, Inputs, Outcome, Runner, TrialId, TrialSpec};
use std::collections::{BTreeMap, BTreeSet};

const GRID: &str = "{lr: {log: [0.01, 1.0, 3]}, optimizer: {choice: [adam, sgd]}}";

fn recipe(parameters: &str, search: &str, seeds: &str) -> String {
    format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: a}}\nspec:\n  study:\n    \
         sweep:\n      command:\n        arguments: [python3, train.py, \"{{lr}}\", \"{{{{}}}}\"]\n        \
         environment: {{LR: \"x{{lr}}-{{seed}}\"}}\n        files: [scripts/train.py]\n      \
         parameters: {parameters}\n      search: {search}\n      seeds: {seeds}\n      \
         metric: {{name: loss, goal: minimize}}\n"
    )
}

fn sweep(parameters: &str, search: &str, seeds: &str) -> Box<dyn Study> {
    let recipe = Recipe::parse(&recipe(parameters, search, seeds)).unwrap();
    assert_eq!(recipe.wanted().files, ["scripts/train.py"]);
    let blob = BlobRef { blob: BlobId::from_hash(blake3::hash(b"")), bytes: 0 };
    let files = BTreeMap::from([("train.py".to_owned(), blob)]);
    recipe.study(&Inputs { files, ..Inputs::default() }).unwrap()
}

/// A study with its history.
struct Lab {
    study: Box<dyn Study>,
    trials: Vec<(TrialId, TrialSpec, Option<Outcome>)>,
}

impl Lab {
    fn new(study: Box<dyn Study>) -> Self {
        Self { study, trials: Vec::new() }
    }

    fn views(&self) -> Vec<TrialView<'_>> {
        self.trials
            .iter()
            .map(|(id, spec, outcome)| TrialView {
                id,
                spec,
                attempts: u32::from(outcome.is_some()),
                outcome: outcome.as_ref(),
                measured: &[],
            })
            .collect()
    }

    /// Draws the planned range, if any, and returns the answer after it.
    fn plan(&mut self) -> Next {
        let answer = self.study.next(&self.views());
        let Next::PlanRange { count, .. } = answer else {
            return answer;
        };
        self.draw(count);
        self.study.next(&self.views())
    }

    fn draw(&mut self, count: u64) {
        let first = self.trials.len() as u64;
        let specs = (first..first + count).map(|index| self.study.trial(index).unwrap());
        self.trials.extend(specs.map(|spec| (spec.id(), spec, None)));
    }

    fn end(&mut self, outcome_of: impl Fn(usize, &TrialSpec) -> Option<Outcome>) {
        for (index, (_, spec, outcome)) in self.trials.iter_mut().enumerate() {
            *outcome = outcome_of(index, spec);
        }
    }

    fn report(&self) -> Report {
        self.study.report(&self.views())
    }
}

fn loss(value: f64) -> Option<Outcome> {
    let metrics = BTreeMap::from([("loss".to_owned(), value)]);
    Some(Outcome::Completed { metrics, checkpoint: None })
}

fn lr(spec: &TrialSpec) -> f64 {
    spec.parameters["lr"].as_f64().unwrap()
}

#[test]
fn a_grid_is_every_combination_with_every_seed() {
    let mut lab = Lab::new(sweep(GRID, "grid", "[3, 4]"));
    assert_eq!(lab.plan(), Next::Wait);
    let found: Vec<_> = lab
        .trials
        .iter()
        .map(|(_, spec, _)| (lr(spec), spec.parameters["optimizer"].to_string(), spec.seed))
        .collect();
    let mut expected = Vec::new();
    for lr in [0.01, 0.1, 1.0] {
        for optimizer in ["adam", "sgd"] {
            expected.extend([3, 4].map(|seed| (lr, optimizer.to_owned(), seed)));
        }
    }
    assert_eq!(found, expected);
    let Runner::Command(command) = &lab.trials[5].1.runner else { panic!("a sweep runs commands") };
    assert_eq!(command.arguments, ["python3", "train.py", "0.1", "{}"]);
    assert_eq!(command.environment["LR"], "x0.1-4");
    assert!(command.files.contains_key("train.py"));
    lab.end(|_, _| loss(1.0));
    assert_eq!(lab.plan(), Next::Complete);
}

#[test]
fn a_sweep_is_one_range_and_complete_when_all_of_it_ended() {
    let mut lab = Lab::new(sweep("{lr: {linear: [0, 1, 2001]}}", "grid", "[0]"));
    let Next::PlanRange { count, reason } = lab.study.next(&[]) else { panic!("one range") };
    assert_eq!((count, reason.as_str()), (2001, "grid: 2001 points"));
    assert!(!lab.study.wants_each_outcome());
    lab.draw(2000);
    lab.end(|_, _| loss(1.0));
    let Next::PlanRange { count, .. } = lab.study.next(&lab.views()) else {
        panic!("a history that holds a part only plans the rest")
    };
    assert_eq!(count, 1);
    lab.draw(1);
    assert_eq!(lab.plan(), Next::Wait);
    lab.end(|_, _| loss(1.0));
    assert_eq!(lab.plan(), Next::Complete);
    assert_eq!(lab.study.trial(2001), None);
    let ids: BTreeSet<_> = lab.trials.iter().map(|trial| &trial.0).collect();
    assert_eq!(ids.len(), 2001);
}

#[test]
fn a_range_is_its_whole_numbers_without_the_end() {
    let mut lab = Lab::new(sweep("{lr: {range: [-2, 3]}}", "grid", "[0]"));
    lab.plan();
    let values: Vec<_> = lab.trials.iter().map(|(_, spec, _)| lr(spec)).collect();
    assert_eq!(values, [-2.0, -1.0, 0.0, 1.0, 2.0]);
    let whole = format!("{{lr: {{range: [{}, {}]}}}}", i64::MAX - 2, i64::MAX);
    let last = sweep(&whole, "grid", "[0]").trial(1).unwrap();
    assert_eq!(last.parameters["lr"], proto::Value::Integer(i64::MAX - 1));
}

#[test]
fn the_largest_grid_has_every_trial_without_a_list_of_them() {
    let size = GRID_TRIALS_MAX / 10;
    let parameters = format!("{{lr: {{range: [0, {size}]}}, b: {{range: [0, 5]}}}}");
    let study = sweep(&parameters, "grid", "[7, 8]");
    assert!(matches!(study.next(&[]), Next::PlanRange { count: GRID_TRIALS_MAX, .. }));
    let last = study.trial(GRID_TRIALS_MAX - 1).unwrap();
    assert_eq!((lr(&last), last.seed), ((size - 1) as f64, 8));
    assert_eq!(study.trial(GRID_TRIALS_MAX), None);
    assert_eq!(study.trial(u64::MAX), None);
}

const RANDOM: &str = "{lr: {log_uniform: [0.001, 1.0]}, drop: {uniform: [-1, 1]}, n: {int_uniform: [-2, 9]}, \
     m: {choice: [a, b, 3]}}";

#[test]
fn more_random_trials_keep_the_earlier_ones() {
    let draw = |trials: u32, seed: u64| {
        let search = format!("{{random: {{trials: {trials}, seed: {seed}}}}}");
        let mut lab = Lab::new(sweep(RANDOM, &search, "[0]"));
        lab.plan();
        lab.trials.into_iter().map(|trial| trial.1).collect::<Vec<_>>()
    };
    let (few, many) = (draw(10, 7), draw(300, 7));
    assert_eq!(few[..], many[..10]);
    assert_ne!(few[0], draw(10, 8)[0]);
    // Stored trials must be found again: the draws must not change by accident.
    assert_eq!(
        serde_json::to_string(&few[0].parameters).unwrap(),
        r#"{"drop":-0.684408,"lr":0.0031913,"m":3,"n":6}"#
    );

    let numbers = |name: &str| -> Vec<f64> {
        many.iter().map(|spec| spec.parameters[name].as_f64().unwrap()).collect()
    };
    let share = |name: &str, below: f64| {
        numbers(name).iter().filter(|value| **value < below).count() as f64 / 300.0
    };
    assert!(numbers("lr").iter().all(|lr| (0.001..=1.0).contains(lr)));
    assert!(numbers("drop").iter().all(|drop| (-1.0..=1.0).contains(drop)));
    // A third of the decades, half of the range: within 4 standard deviations of 300 draws.
    assert!((share("lr", 0.01) - 1.0 / 3.0).abs() < 0.11, "{}", share("lr", 0.01));
    assert!((share("drop", 0.0) - 0.5).abs() < 0.12, "{}", share("drop", 0.0));
    let whole: BTreeSet<i64> = numbers("n").iter().map(|n| *n as i64).collect();
    assert_eq!(whole, (-2..=9).collect());
    let choices: BTreeSet<String> =
        many.iter().map(|spec| spec.parameters["m"].to_string()).collect();
    assert_eq!(choices, ["3", "a", "b"].map(str::to_owned).into());
}

#[test]
fn a_random_draw_that_repeats_a_point_is_left_out() {
    let parameters = "{lr: {choice: [1, 2, 3]}}";
    let mut lab = Lab::new(sweep(parameters, "{random: {trials: 50}}", "[0, 1]"));
    lab.plan();
    assert_eq!(lab.trials.len(), 6);
    lab.end(|_, _| loss(1.0));
    assert_eq!(lab.plan(), Next::Complete);
    let note = "47 random draws repeated an earlier point and were left out.";
    assert!(lab.report().notes.iter().any(|found| found == note));
}

#[test]
fn the_best_point_has_the_best_mean_over_all_its_seeds() {
    let mut lab = Lab::new(sweep("{lr: {choice: [1, 2, 3]}}", "grid", "[0, 1]"));
    lab.plan();
    // Point 2 has the best single value but lacks a seed; point 3 has the best mean.
    let losses = [Some(5.0), Some(7.0), Some(0.1), None, Some(3.0), Some(4.0)];
    let failed = || Some(Outcome::failed(FailureClass::Trial, "exit code 1\nmore"));
    lab.end(|index, _| losses[index].map_or_else(failed, loss));
    assert_eq!(lab.plan(), Next::Complete);
    let report = lab.report();
    let best = &report.summary["best"];
    assert_eq!(best["parameters"]["lr"], 3);
    assert_eq!(best["mean"], 3.5);
    // 3.5 +- 12.706205 * 0.5
    let low = best["ci95"][0].as_f64().unwrap();
    assert!((low - (3.5 - 6.353_102_5)).abs() < 1e-6, "{low}");
    assert_eq!(best["trials"].as_array().unwrap().len(), 2);
    assert_eq!(report.summary["trials"]["failed"], 1);
    let failed = format!("1 trial failed and left out: {} (failed: exit code 1).", lab.trials[3].0);
    assert!(report.notes.contains(&failed), "{:?}", report.notes);
    assert!(report.notes.iter().any(|note| note.contains("cannot be the best")));
    let points = &report.sections.iter().find(|s| s.heading == "Results").unwrap().tables[0];
    let ranks: Vec<_> = points.rows.iter().map(|row| (&row[0], &row[1])).collect();
    let number = Cell::Number;
    assert_eq!(
        ranks,
        [
            (&number(1.0), &number(3.0)),
            (&number(2.0), &number(1.0)),
            (&Cell::missing(""), &number(2.0)),
        ]
    );
}

#[test]
fn a_single_seed_is_called_optimistic() {
    let mut lab = Lab::new(sweep("{lr: {choice: [1, 2]}}", "grid", "[0]"));
    lab.plan();
    lab.end(|index, _| loss(index as f64));
    let report = lab.report();
    assert!(report.notes[0].contains("optimistic: part of it is luck"));
    assert_eq!(report.summary["best"]["ci95"], serde_json::Value::Null);
    assert_eq!(report.summary["best"]["mean"], 0.0);
}

#[test]
fn trials_without_a_number_are_listed_and_left_out() {
    let mut lab = Lab::new(sweep("{lr: {choice: [1, 2, 3, 4]}}", "grid", "[0]"));
    lab.plan();
    let other = BTreeMap::from([("accuracy".to_owned(), 1.0)]);
    let outcomes = [
        loss(2.0),
        Some(Outcome::Completed { metrics: other, checkpoint: None }),
        Some(Outcome::Diverged { metric: "loss".into(), step: 9 }),
        None,
    ];
    lab.end(|index, _| outcomes[index].clone());
    assert_eq!(lab.plan(), Next::Wait);
    let report = lab.report();
    let id = |index: usize| lab.trials[index].0.to_string();
    let expected = [
        format!("1 trial diverged and left out: {} (loss was not a number at step 9).", id(2)),
        format!("1 trial completed without reporting `loss` and left out: {}.", id(1)),
        "1 trial not finished yet.".to_owned(),
    ];
    for note in &expected {
        assert!(report.notes.contains(note), "{note}: {:?}", report.notes);
    }
    let trials = &report.sections.iter().find(|s| s.heading == "Results").unwrap().tables[1];
    let states: Vec<_> = trials.rows.iter().map(|row| row[3].to_text()).collect();
    assert_eq!(states, ["completed", "metric missing", "diverged", "unfinished"]);
    assert_eq!(report.summary["best"]["parameters"]["lr"], 1);
}

#[test]
fn numeric_parameters_get_a_figure_with_a_link_per_trial() {
    let mut lab = Lab::new(sweep(GRID, "grid", "[0]"));
    lab.plan();
    assert_eq!(lab.report().sections.len(), 2, "no figure without a value");
    lab.end(|_, spec| loss(lr(spec)));
    let report = lab.report();
    let figures = &report.sections[1].figures;
    let names: Vec<_> = figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(names, ["by_lr"], "a text has no axis");
    let points = &figures[0].chart.series[0].points;
    assert_eq!(points.len(), 6);
    for (point, trial) in points.iter().zip(&lab.trials) {
        assert_eq!((point.x, point.y), (lr(&trial.1), lr(&trial.1)));
        assert_eq!(point.trial.as_ref(), Some(&trial.0));
    }
    assert_eq!(figures[0].chart.series[1].points[0].x, 0.01);
}

#[test]
fn a_report_before_the_first_trial_says_that_nothing_is_known() {
    let lab = Lab::new(sweep(GRID, "grid", "[0]"));
    let report = lab.report();
    assert_eq!(report.summary["best"], serde_json::Value::Null);
    assert_eq!(report.summary["trials"]["total"], 6);
    assert_eq!(report.sections[0].text[0], "No point has a value of loss for every seed yet.");
    assert!(report.notes.contains(&"6 trials not finished yet.".to_owned()));
}

#[test]
fn the_largest_random_search_leaves_out_what_it_repeats() {
    let search = format!("{{random: {{trials: {RANDOM_TRIALS_MAX}}}}}");
    let study = sweep("{lr: {uniform: [0, 1]}}", &search, "[0]");
    let Next::PlanRange { count, reason } = study.next(&[]) else { panic!("one range") };
    // Of 100,000 draws with six digits some repeat.
    assert!((90_000..RANDOM_TRIALS_MAX).contains(&count), "{count}");
    assert_eq!(reason, format!("random search: {count} points"));
}

#[test]
fn the_report_of_a_large_sweep_stays_small() {
    let mut lab = Lab::new(sweep("{lr: {range: [0, 20000]}}", "grid", "[0]"));
    lab.plan();
    lab.end(|index, spec| match index % 10 {
        0 => Some(Outcome::failed(FailureClass::Trial, "exit code 1")),
        _ => loss(lr(spec)),
    });
    let report = lab.report();
    assert_eq!(report.summary["trials"]["measured"], 18_000);
    assert_eq!(report.summary["best"]["parameters"]["lr"], 1);
    for section in &report.sections {
        assert!(section.tables.iter().all(|table| table.rows.len() <= 1_000));
        let series = section.figures.iter().flat_map(|figure| &figure.chart.series);
        assert!(series.into_iter().all(|series| series.points.len() <= 2_000));
    }
    // The points of the figure are spread over the grid.
    let points = &report.sections[1].figures[0].chart.series[0].points;
    let low = points.iter().filter(|point| point.x < 10_000.0).count();
    assert!((800..1_200).contains(&low), "{low}");
    let failed = "2000 trials failed and left out: ";
    let note = report.notes.iter().find(|note| note.starts_with(failed)).unwrap();
    assert!(note.ends_with("; ...."), "{note}");
}

fn without_metric(program: &str) -> Lab {
    let text = format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: a}}\nspec:\n  study:\n    \
         sweep:\n      {program}\n      parameters: {{n: {{range: [0, 4]}}}}\n      search: grid\n"
    );
    Lab::new(Recipe::parse(&text).unwrap().study(&Inputs::default()).unwrap())
}

#[test]
fn a_noop_occupies_nothing_and_its_sweep_asks_only_for_completion() {
    let mut lab = without_metric("noop: {}");
    lab.plan();
    let spec = &lab.trials[3].1;
    assert_eq!((&spec.runner, spec.resources.cpus), (&Runner::Noop, 0));
    assert_eq!(spec.parameters["n"], proto::Value::Integer(3));
    assert!(!lab.study.has_result(&[]));
    let done = || Some(Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None });
    lab.end(|index, _| match index {
        2 => Some(Outcome::failed(FailureClass::Infrastructure, "lost")),
        _ => done(),
    });
    assert!(!lab.study.has_result(&lab.views()));
    let report = lab.report();
    assert_eq!(report.sections[0].text, ["3 of 4 trials completed."]);
    assert_eq!(report.sections[0].tables[1].rows.len(), 1);
    let expected = format!("1 trial did not complete: {} (infrastructure: lost).", lab.trials[2].0);
    assert_eq!(report.notes, [expected]);
    lab.end(|_, _| done());
    assert!(lab.study.has_result(&lab.views()));
    assert_eq!(lab.plan(), Next::Complete);
    let report = lab.report();
    assert_eq!(report.summary["completed"], 4);
    assert_eq!(report.notes, [""; 0]);
}

#[test]
fn a_command_without_a_metric_is_judged_by_its_end() {
    let mut lab = without_metric("command: {arguments: [/bin/true]}\n      metric: null");
    lab.plan();
    assert!(matches!(lab.trials[0].1.runner, Runner::Command(_)));
    lab.end(|index, _| (index < 3).then(|| loss(1.0)).flatten());
    assert_eq!(lab.report().notes, ["1 trial not finished yet."]);
}
