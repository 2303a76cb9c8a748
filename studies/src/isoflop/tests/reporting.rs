use super::{BYTES, Lab, MINI, SODA, failed, parse, settings, study};
use crate::isoflop::planner::IsoflopStudy;
use crate::report::{Cell, Report};
use crate::study::Study;
use proto::Outcome;

fn report(lab: &Lab) -> Report {
    lab.study.report(&lab.views())
}

fn complete() -> Lab {
    let mut lab = Lab::new(MINI);
    lab.plan();
    lab.finish_on(&BYTES);
    lab
}

#[track_caller]
fn noted(report: &Report, words: &str) {
    assert!(report.notes.iter().any(|note| note.contains(words)), "{:#?}", report.notes);
}

#[track_caller]
fn not_noted(report: &Report, words: &str) {
    assert!(report.notes.iter().all(|note| !note.contains(words)), "{:#?}", report.notes);
}

#[test]
fn a_complete_study_reports_both_fits() {
    let lab = complete();
    let report = report(&lab);
    let truth = BYTES.exponents().unwrap();
    let summary = &report.summary;
    let value = |path: &str| summary.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
    assert!((value("/parametric/a/value") - truth.0).abs() < 1e-3);
    assert!((value("/parametric/b/value") - truth.1).abs() < 1e-3);
    assert!(value("/parametric/prediction/parameters/value") > 0.0);
    assert!((value("/approach2/a/value") - truth.0).abs() < 0.15);
    assert_eq!(value("/n") as usize, lab.trials.len());
    let names: Vec<&str> = report
        .sections
        .iter()
        .flat_map(|section| &section.figures)
        .map(|figure| figure.name.as_str())
        .collect();
    assert_eq!(names, ["isoflop_curves", "optimal_parameters", "optimal_tokens", "residuals"]);
    noted(&report, "scaled-down run");
    noted(&report, "conventions: C is counted training FLOPs; N is all parameters");
    assert_eq!(report.curve_parameter.as_deref(), Some("flop_budget"));
}

#[test]
fn every_measured_point_leads_to_its_trial() {
    let lab = complete();
    let report = report(&lab);
    let curves = &report.sections[0].figures[0].chart;
    let mut linked: Vec<_> = curves
        .series
        .iter()
        .flat_map(|series| &series.points)
        .filter_map(|point| point.trial.clone())
        .collect();
    let mut planned: Vec<_> = lab.trials.iter().map(|(id, _, _)| id.clone()).collect();
    linked.sort();
    planned.sort();
    assert_eq!(linked, planned);
}

#[test]
fn every_table_row_fills_its_columns() {
    let report = report(&complete());
    let tables: Vec<_> = report.sections.iter().flat_map(|section| &section.tables).collect();
    assert_eq!(tables.len(), 3);
    for table in tables {
        assert!(!table.rows.is_empty(), "{}", table.name);
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{}", table.name);
    }
}

#[test]
fn a_study_without_a_result_says_what_is_missing() {
    let mut lab = Lab::new(MINI);
    let before_planning = report(&lab);
    noted(&before_planning, "no parametric fit: a parametric fit needs at least 6 points, found 0");
    lab.plan();
    let unfinished = report(&lab);
    noted(&unfinished, &format!("unfinished: {0} of {0} trials", lab.trials.len()));
    assert!(unfinished.sections[0].figures.is_empty());
    assert!(unfinished.summary["approach2"].is_null());
    for (_, _, outcome) in &mut lab.trials {
        *outcome = Some(failed());
    }
    let nothing = report(&lab);
    noted(&nothing, "is closed: no trial gave a loss");
    noted(&nothing, "ended as failed");
}

#[test]
fn a_diverged_trial_is_listed_and_left_out() {
    let mut lab = complete();
    lab.trials[0].2 = Some(Outcome::Diverged { metric: "loss".into(), step: 12 });
    let id = lab.trials[0].0.clone();
    let report = report(&lab);
    noted(&report, &format!("left out of the fits: trial {id}"));
    noted(&report, "diverged (loss at step 12)");
    assert_eq!(report.summary["n"], lab.trials.len() - 1);
    let row = &report.sections[2].tables[0].rows[0];
    assert_eq!(row[0], Cell::Trial(id));
    assert!(row.contains(&Cell::missing("left out")));
}

#[test]
fn a_minimum_that_is_not_bracketed_is_hollow_and_noted() {
    let mut lab = Lab::new(&MINI.replace("[16, 24, 32, 48, 64, 96, 128]", "[16, 24, 32]"));
    lab.plan();
    lab.finish_on(&BYTES);
    let report = report(&lab);
    noted(&report, "not used: the minimum is not bracketed (at the largest model)");
    noted(&report, "is asked for, because the minimum is not bracketed towards large models");
    let curves = &report.sections[0].figures[0].chart;
    assert!(curves.series.iter().flat_map(|series| &series.points).any(|point| point.excluded));
}

#[test]
fn a_text_that_is_seen_more_than_once_is_noted() {
    not_noted(&report(&complete()), "more than once");
    let lab = complete();
    let mut data = lab.study.data.clone();
    data.text.bytes = 100_000;
    let short = IsoflopStudy::new(lab.study.spec.clone(), settings(), data);
    noted(&short.report(&lab.views()), "see it more than once, at most");
}

// Goal: the plan says before the trainings what the report says beside their numbers.
#[test]
fn the_plan_warns_of_what_the_report_will_note() {
    let warned = |text: &str, bytes: u64| {
        let mut lab = Lab::new(text);
        lab.plan();
        let mut data = lab.study.data.clone();
        data.text.bytes = bytes;
        let study = IsoflopStudy::new(lab.study.spec.clone(), settings(), data);
        let views = lab.views();
        let (warnings, report) = (study.warnings(&views), study.report(&views));
        // The number of sizes is a matter of the plan; a report shows what came of it.
        let both = |note: &&String| !note.contains("a parabola needs");
        assert!(warnings.iter().filter(both).all(|note| report.notes.contains(note)));
        warnings.join("\n")
    };
    let usual = warned(MINI, 20_000_000);
    assert!(usual.starts_with("7 of 28 cells") && !usual.contains('\n'), "{usual}");
    assert!(warned(MINI, 100_000).contains("see it more than once, at most"));
    let odd = MINI.replace("[16, 24, 32, 48, 64, 96, 128]", "[32, 1024]");
    let warnings = warned(&odd, 20_000_000);
    for words in ["of 8 cells of the grid are left out", "1024 at 3.00e10", "3.00e10 (1)"] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
}

// Goal: whoever reads an interval sees how many of the resamples it stands on.
#[test]
fn lost_resamples_are_said_beside_the_intervals() {
    let mut lab = Lab::new(&MINI.replace("[16, 24, 32, 48, 64, 96, 128]", "[32, 64, 128]"));
    lab.plan();
    lab.finish_on(&BYTES);
    let report = report(&lab);
    noted(&report, "usable resamples of the budgets ");
    let table = &report.sections[1].tables[0];
    let column = table.columns.iter().position(|c| c.name == "usable resamples").unwrap();
    let texts = table.texts();
    assert!(texts.iter().any(|row| row[column].ends_with(" of 200")), "{texts:?}");
    assert!(texts.iter().all(|row| !row.last().unwrap().contains("sharp enough")), "{texts:?}");
}

#[test]
fn a_study_of_published_size_is_not_called_scaled_down() {
    not_noted(&study(parse(SODA).unwrap()).report(&[]), "scaled-down");
}
