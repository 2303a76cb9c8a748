//! Colours that colour-blind readers can tell apart, on light and on dark paper.

use super::chart::{Chart, Palette};
use std::fmt::Write as _;

/// Okabe and Ito's colours without yellow, which vanishes on white: light and dark paper.
const CATEGORICAL: [[&str; 2]; 7] = [
    ["#0072b2", "#56a8e0"],
    ["#d55e00", "#f0803c"],
    ["#009e73", "#2dc79b"],
    ["#b8578f", "#e08cc0"],
    ["#b27d00", "#e8b13a"],
    ["#2a9fd6", "#8fd0f5"],
    ["#555555", "#bbbbbb"],
];

/// Steps of the ordered palette.
const SEQUENTIAL_STEPS: usize = 16;
/// Corners of viridis, at equal distances from 0 to 1.
const VIRIDIS: [[f64; 3]; 9] = [
    [68.0, 1.0, 84.0],
    [72.0, 40.0, 120.0],
    [62.0, 73.0, 137.0],
    [49.0, 104.0, 142.0],
    [38.0, 130.0, 142.0],
    [31.0, 158.0, 137.0],
    [53.0, 183.0, 121.0],
    [110.0, 206.0, 88.0],
    [253.0, 231.0, 37.0],
];
/// The parts of viridis that stand out from light and from dark paper.
const VIRIDIS_ON_LIGHT: [f64; 2] = [0.04, 0.84];
const VIRIDIS_ON_DARK: [f64; 2] = [0.36, 1.0];

/// The class that gives a series of `chart` its colour.
pub(super) fn class(chart: &Chart, group: usize) -> String {
    match chart.palette {
        Palette::Categorical => format!("c{}", group % CATEGORICAL.len()),
        Palette::Sequential => {
            let groups = chart.series.iter().map(|series| series.group);
            let last = groups.max().unwrap_or(0).max(1);
            let share = group.min(last) as f64 / last as f64;
            let step = (share * (SEQUENTIAL_STEPS - 1) as f64).round() as usize;
            format!("s{step}")
        }
    }
}

/// Rules that set `--c` for every class.
pub(super) fn css() -> String {
    let rules = |paper: usize, part: [f64; 2]| {
        let mut css = String::new();
        for (index, colours) in CATEGORICAL.iter().enumerate() {
            let _ = write!(css, ".c{index}{{--c:{}}}", colours[paper]);
        }
        for step in 0..SEQUENTIAL_STEPS {
            let share = step as f64 / (SEQUENTIAL_STEPS - 1) as f64;
            let [r, g, b] = viridis(part[0] + share * (part[1] - part[0]));
            let _ = write!(css, ".s{step}{{--c:#{r:02x}{g:02x}{b:02x}}}");
        }
        css
    };
    format!(
        "{}@media screen and (prefers-color-scheme:dark){{{}}}",
        rules(0, VIRIDIS_ON_LIGHT),
        rules(1, VIRIDIS_ON_DARK)
    )
}

fn viridis(share: f64) -> [u8; 3] {
    let place = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let corner = (place as usize).min(VIRIDIS.len() - 2);
    let rest = place - corner as f64;
    std::array::from_fn(|channel| {
        let [from, to] = [VIRIDIS[corner][channel], VIRIDIS[corner + 1][channel]];
        (from + rest * (to - from)).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Series;

    #[test]
    fn ordered_groups_span_the_whole_palette() {
        let series = |group| Series { group, ..Series::default() };
        let chart = Chart {
            palette: Palette::Sequential,
            series: (0..4).map(series).collect(),
            ..Chart::default()
        };
        let classes: Vec<String> = (0..4).map(|group| class(&chart, group)).collect();
        assert_eq!(classes, ["s0", "s5", "s10", "s15"]);
        let css = css();
        assert!(classes.iter().all(|class| css.contains(&format!(".{class}{{"))));
    }

    #[test]
    fn one_group_alone_has_a_colour() {
        for palette in [Palette::Categorical, Palette::Sequential] {
            let chart = Chart { palette, ..Chart::default() };
            let class = class(&chart, 0);
            assert!(css().contains(&format!(".{class}{{")), "{class}");
        }
    }
}
