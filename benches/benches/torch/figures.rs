//! Rates of both sides, taken in turn.

use crate::RUNS;
use brine_benches::median;
use std::fmt::Write;

/// "median (least to greatest)".
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(0.0, f64::max);
    format!("{:.digits$} ({least:.digits$} to {greatest:.digits$})", median(values))
}

/// Runs ours and theirs in turn and gives one line of tokens per second: medians, and the ratio of
/// each pair.
pub(crate) fn in_turn(
    ours: &mut dyn FnMut() -> f64,
    mut theirs: Option<&mut dyn FnMut() -> f64>,
) -> String {
    let (mut mine, mut others) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        mine.push(ours());
        others.extend(theirs.as_mut().map(|theirs| theirs()));
    }
    let mut line = format!("{} tokens/s", spread(&mine, 0));
    if !others.is_empty() {
        let ratios: Vec<f64> = mine.iter().zip(&others).map(|(mine, other)| mine / other).collect();
        write!(line, ", beside it {}: {} times", spread(&others, 0), spread(&ratios, 2)).unwrap();
    }
    line
}
