use super::{MINI, SODA, parse, recipe};
use crate::fit::{Options, Point, Surface, analyse};
use crate::isoflop::{Cell, FlopsConvention, IsoflopSpec, Refusal};
use proptest::prelude::*;

#[track_caller]
fn soda_cell(budget: f64, width: u32) -> Cell {
    let cells = parse(SODA).unwrap().cells_at(budget);
    cells.into_iter().find(|cell| cell.model.width == width).expect("the cell is in the grid")
}

// Goal: the rules give what they gave SODA's authors. Worked out by hand from the formulas:
// d = 512: layers round(512 / (57 + 36)) = 6, 4 heads, i = 2048;
// f = 6 (6*512*2048 + 8*512^2 + 4*4096*512 + 3*4096*4) + 2*512*144644 = 249073664;
// 3e18 / (f * 65536 * 4096) = 44.9, so B = 64; rate 0.33 * 8 / 512 = 0.00515625;
// steps = round(3e18 / (f * 64 * 4096)) = 45947; N = 6 (16*512^2 + 2*512) + 2*144644*512.
#[test]
fn a_cell_of_sodas_grid_is_as_computed_by_hand() {
    let cell = soda_cell(3e18, 512);
    let model = &cell.model;
    assert_eq!((model.layers, model.heads, model.mlp_width), (6, 4, 2048));
    assert_eq!(model.forward_flops_per_token(), 249_073_664);
    assert_eq!((cell.batch, cell.steps), (64, 45_947));
    assert!((cell.learning_rate - 0.005_156_25).abs() < 1e-15);
    assert!((cell.beta2 - 0.98_f64.sqrt()).abs() < 1e-15);
    assert_eq!(cell.parameters, 173_287_424);
    assert_eq!(cell.tokens, 64 * 4096 * 45_947);
}

// d = 384 at 1e19: 1e19 / (155274240 * 65536 * 4096) = 239.9, so B = 256, but the rate
// 0.33 * 16 / 384 = 0.0138 is above 0.01: B = 128 with 0.0097.
#[test]
fn the_batch_is_halved_until_the_rate_is_in_its_limit() {
    let cell = soda_cell(1e19, 384);
    assert_eq!((cell.batch, cell.steps), (128, 122_837));
}

#[test]
fn widths_follow_the_ranges_of_their_budget() {
    let spec = parse(SODA).unwrap();
    assert_eq!(spec.widths_at(3e18).len(), 16);
    assert_eq!(spec.widths_at(1e19), [128, 384, 640, 896, 1152, 1408, 1664, 1920]);
    let added = [2048, 2304, 2816, 3072];
    assert_eq!(spec.widths_at(1e20)[8..], added);
    let counts: Vec<usize> =
        spec.flop_budgets.iter().map(|budget| spec.cells_at(*budget).len()).collect();
    // SODA's 66 cells, 7 of them added by hand.
    assert_eq!(counts, [7, 12, 14, 7, 8, 8, 10]);
}

#[test]
fn a_refused_width_says_why() {
    let spec = parse(SODA).unwrap();
    assert_eq!(spec.cell(1e18, 2048), Err(Refusal::SmallBatch));
    assert!(matches!(spec.cell(6e18, 256), Err(Refusal::Steps(steps)) if steps > 492_000.0));
    let coarse =
        recipe("flop_budgets: [1.0e9]\nwidths: [16]\ngrid: {steps_target: 3, tolerance: 0.5}");
    let coarse = coarse.unwrap();
    let strict = IsoflopSpec {
        grid: crate::isoflop::spec::Grid { tolerance: 1e-6, ..coarse.grid.clone() },
        ..coarse
    };
    assert!(matches!(strict.cell(1e9, 16), Err(Refusal::Budget(_))));
}

proptest! {
    // Goal: whatever the budget and the width, a cell keeps every promise of the rules.
    #[test]
    fn every_cell_keeps_the_rules(log_budget in 9.0..14.0_f64, width in 1..400_u32) {
        let spec = recipe(MINI).unwrap();
        let budget = 10f64.powf(log_budget);
        if let Ok(cell) = spec.cell(budget, width) {
            let grid = &spec.grid;
            let tokens = u64::from(cell.batch) * u64::from(grid.sequence) * cell.steps;
            prop_assert_eq!(cell.tokens, tokens);
            let counted = cell.model.training_flops(tokens);
            prop_assert!((counted / budget - 1.0).abs() <= grid.tolerance);
            prop_assert!((cell.flops / counted - 1.0).abs() < 1e-12);
            prop_assert!(cell.learning_rate <= grid.learning_rate.max);
            prop_assert!(cell.batch >= grid.batch_min && cell.batch.is_power_of_two());
            prop_assert!(cell.steps < grid.steps_max && cell.steps > 0);
            let heads = cell.model.heads;
            prop_assert!(cell.model.width.is_multiple_of(2 * heads), "rotary pairs");
        }
    }
}

#[test]
fn a_convention_changes_what_is_counted_not_the_model() {
    let with = |flops: &str| recipe(&format!("{MINI}flops: {flops}\n")).unwrap();
    let training = with("counted_training").cell(3e11, 64).unwrap();
    let forward = with("counted_forward").cell(1e11, 64).unwrap();
    assert_eq!((training.tokens, training.model.clone()), (forward.tokens, forward.model));
    let six = with("6nd");
    assert_eq!(six.flops, FlopsConvention::SixNd);
    let cell = six.cell(3e11, 64).unwrap();
    let product = 6.0 * cell.parameters as f64 * cell.tokens as f64;
    assert!((product / 3e11 - 1.0).abs() < 0.01);

    let all = training.parameters;
    let counted = |params: &str| {
        let spec = recipe(&format!("{MINI}params: {params}\n")).unwrap();
        spec.cell(3e11, 64).unwrap().parameters
    };
    assert_eq!(counted("all_but_final_norm"), all - 64);
    assert_eq!(counted("non_embedding"), all - 2 * 256 * 64);
}

// Goal: the reference case of arXiv 2603.22339. SODA's own surface, without noise, on SODA's own
// grid: the true exponent of D* is .609, Approach 2 finds .559, and the parametric fit the truth.
#[test]
fn approach_2_misses_the_truth_on_sodas_own_surface_and_grid() {
    let surface = Surface { e: 3.169, a: 215_886.0, b: 4_750.0, alpha: 0.684, beta: 0.439 };
    let spec = parse(SODA).unwrap();
    let cells = spec.flop_budgets.iter().flat_map(|budget| spec.cells_at(*budget));
    let points: Vec<Point> = cells
        .map(|cell| {
            let (parameters, tokens) = (cell.parameters as f64, cell.tokens as f64);
            let loss = surface.loss(parameters, tokens);
            Point { parameters, tokens, loss, budget: Some(cell.budget) }
        })
        .collect();
    let analysis = analyse(&points, &Options { resamples: 0, ..Options::default() });
    let line = analysis.approach2.unwrap();
    assert_eq!(line.budgets_used, 7);
    assert!((line.b.value - 0.559).abs() < 5e-4, "b is {}", line.b.value);
    let truth = surface.exponents().unwrap().1;
    assert!((truth - 0.609).abs() < 5e-4);
    let fitted = analysis.parametric.unwrap().b.unwrap().value;
    assert!((fitted - truth).abs() < 1e-4, "the parametric b is {fitted}");
}
