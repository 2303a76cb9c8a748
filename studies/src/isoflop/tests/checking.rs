use super::{MINI, parse, recipe, settings, study};
use crate::recipe::{DataWanted, StudyError};
use crate::study::Study;
use proto::{BlobId, BlobRef, Inputs, TokenFormat};

/// The error's words without the line and column.
#[track_caller]
fn check(lines: &str, expected: &str) {
    let mistakes = recipe(lines).expect_err("the recipe is wrong");
    let [error] = mistakes.iter().as_slice() else { panic!("{mistakes}") };
    assert!(error.place.is_some(), "{error}");
    let mut found = format!("{}: {}", error.path, error.message);
    if let Some(hint) = &error.hint {
        found = format!("{found} | {hint}");
    }
    let found = found.replace("spec.study.isoflop.", "");
    assert_eq!(found, expected);
}

fn with(line: &str) -> String {
    format!("flop_budgets: [1.0e11]\nwidths: [32, 64]\n{line}\n")
}

#[test]
fn a_wrong_budget_is_named() {
    let found = |budgets: &str| format!("flop_budgets: {budgets}\nwidths: [32]");
    check(
        &found("[1.0e11, -1.0e10]"),
        "flop_budgets[1]: must be a positive number of FLOPs up to 1e30, found -1e10",
    );
    check(&found("[]"), "flop_budgets: needs 1 to 64 budgets, found 0");
    check(&found("[1.0e11, 1.0e11]"), "flop_budgets[1]: the budget 1e11 is there twice");
    check(
        &found("[1.0e11, 1.0e4]"),
        "flop_budgets: no cell of the grid is valid for the budget 1e4 (width 32: its batch is \
         below grid.batch_min) | change the budget, the widths, or grid.steps_target, \
         grid.batch_min and grid.learning_rate",
    );
    check(
        "flop_budgets: [1.0e11]",
        "widths: no width is given for the budget 1e11 | give widths, or width_ranges that hold \
         this budget",
    );
}

#[test]
fn a_wrong_value_is_named() {
    for (line, expected) in [
        ("grid: {tolerance: 1.5}", "grid.tolerance: must be above 0 and below 1, found 1.5"),
        ("grid: {vocabulary: 100}", "grid.vocabulary: must be at least 256 for bytes, found 100"),
        ("grid: {batch_min: 0}", "grid.batch_min: must be from 1 to 65536, found 0"),
        ("grid: {mlp_ratio: -4}", "grid.mlp_ratio: must be above 0, found -4"),
        ("grid: {layers: {base: 0}}", "grid.layers.base: must be above 0, found 0"),
        ("data: {held_out: 1}", "data.held_out: must be above 0 and below 1, found 1"),
        ("data: {files: []}", "data.files: needs 1 to 100 patterns, found 0"),
        ("data: {files: ' '}", "data.files: a file pattern must not be empty"),
        ("seeds: []", "seeds: needs 1 to 100 seeds, found 0"),
        ("seeds: [1, 1]", "seeds[1]: the seed 1 is there twice"),
        ("fit: {resamples: 1000000}", "fit.resamples: must be from 0 to 20000, found 1000000"),
        (
            "width_ranges: [{from: 64, to: 32, step: 8}]",
            "width_ranges[0].to: must be from 64 to 65536, found 32",
        ),
        (
            "width_ranges: [{from: 1, to: 60000, step: 1}]",
            "width_ranges: 60000 widths for the budget 1e11, at most 1000 are tried",
        ),
        (
            "data: {format: jsonl}",
            "grid.vocabulary: must be at least 257 for jsonl, every byte and the end of a document, \
             found 256",
        ),
        ("optimizer: {decay_to: 1.5}", "optimizer.decay_to: must be from 0 to 1, found 1.5"),
        (
            "optimizer: {kind: sgd, beta1: 0.9}",
            "optimizer.beta1: is a constant of adamw, lion and muon's rest | leave it out, or \
             choose another optimizer.kind",
        ),
        (
            "optimizer: {kind: muon, epsilon: 1.0e-8, muon: {rest: lion}}",
            "optimizer.epsilon: is a constant of adamw | leave it out, or choose another \
             optimizer.kind",
        ),
        (
            "optimizer: {kind: muon, momentum: 1}",
            "optimizer.momentum: must be at least 0 and below 1, found 1",
        ),
        ("training: {accumulation: 0}", "training.accumulation: must be from 1 to 65536, found 0"),
        (
            "optimizer: {warmup: 0.6, decay: 0.6}",
            "optimizer.decay: warmup 0.6 and decay 0.6 are more than all steps | both are shares \
             of the steps; their sum is at most 1",
        ),
        (
            "closed_loop: {interval_factor_max: 1}",
            "closed_loop.interval_factor_max: must be above 1, found 1 | it is the ratio of the \
             interval's upper end to its lower end",
        ),
    ] {
        check(&with(line), expected);
    }
}

#[test]
fn an_unknown_key_is_refused_wherever_it_stands() {
    for line in ["colour: 1", "grid: {batchmin: 4}", "fit: {resample: 1}", "data: {file: x}"] {
        let error = recipe(&with(line)).unwrap_err().to_string();
        assert!(error.contains("unknown key"), "{error}");
    }
}

#[test]
fn the_data_of_a_recipe_is_wanted_from_the_client() {
    let source = |line: &str| recipe(&with(line)).unwrap().wanted().data.unwrap();
    assert_eq!(source(""), DataWanted::PythonStandardLibrary);
    let one = DataWanted::Files(vec!["corpus/*.txt".into()]);
    assert_eq!(source("data: {files: 'corpus/*.txt'}"), one);
    let two = DataWanted::Files(vec!["a.txt".into(), "b.txt".into()]);
    assert_eq!(source("data: {files: [a.txt, b.txt]}"), two);
}

#[test]
fn a_text_that_is_missing_or_too_short_is_refused() {
    let spec = recipe(MINI).unwrap();
    let with_bytes = |bytes: u64, spec: &crate::isoflop::IsoflopSpec| {
        let blob = BlobId::from_hash(blake3::hash(b""));
        let inputs = Inputs { data: Some(BlobRef { blob, bytes }), ..Inputs::default() };
        spec.study(settings(), &inputs).map(|_| ())
    };
    assert_eq!(
        spec.study(settings(), &Inputs::default()).map(|_| ()),
        Err(StudyError::DataMissing)
    );
    // A tenth is held out and must hold a sequence of 128, its last target and the rounding.
    let short = StudyError::DataTooShort { bytes: 1_299, needed: 1_300 };
    assert_eq!(with_bytes(1_299, &spec), Err(short));
    assert_eq!(with_bytes(1_300, &spec), Ok(()));
    let mut wide = spec;
    wide.data.format = TokenFormat::U16;
    let short = StudyError::DataTooShort { bytes: 2_599, needed: 2_600 };
    assert_eq!(with_bytes(2_599, &wide), Err(short));
}

#[test]
fn an_unfinished_history_asks_each_outcome() {
    assert!(study(recipe(MINI).unwrap()).wants_each_outcome());
    assert!(parse(super::SODA).is_ok());
}
