use super::*;
use crate::report::chart::{Axis, Band, Point, Series};
use proptest::prelude::*;
use roxmltree::Document;

fn points(values: &[[f64; 2]]) -> Series {
    let point = |[x, y]: &[f64; 2]| Point { x: *x, y: *y, ..Point::default() };
    Series {
        label: "series".into(),
        points: values.iter().map(point).collect(),
        ..Series::default()
    }
}

fn chart(series: Vec<Series>) -> Chart {
    Chart {
        title: "Title".into(),
        x: Axis::log("N"),
        y: Axis::linear("loss"),
        series,
        ..Chart::default()
    }
}

/// The places of all drawn points, after checks that hold for every picture.
#[track_caller]
fn draw(chart: &Chart) -> Vec<[f64; 2]> {
    let text = svg(chart);
    let document = Document::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let body = text.split_once("</style>").unwrap().1;
    assert!(!body.contains("NaN") && !body.contains("inf"), "{body}");
    // The circles of the legend have no tooltip.
    let has_tooltip = |node: &roxmltree::Node<'_, '_>| {
        let first = node.parent().and_then(|parent| parent.first_element_child());
        first.is_some_and(|first| first.has_tag_name("title"))
    };
    let circles = document.descendants().filter(|node| node.has_tag_name("circle"));
    let marks = circles.filter(has_tooltip);
    let place =
        |name, node: roxmltree::Node<'_, '_>| node.attribute(name).unwrap().parse().unwrap();
    marks.map(|node| [place("cx", node), place("cy", node)]).collect()
}

#[track_caller]
fn says(chart: &Chart, words: &str) {
    let text = svg(chart);
    assert!(text.contains(words), "{words:?} is not in {text}");
}

#[test]
fn a_chart_without_values_says_so() {
    for series in [vec![], vec![points(&[])], vec![points(&[[f64::NAN, 1.0]])]] {
        let chart = chart(series);
        assert!(draw(&chart).is_empty());
        says(&chart, "no data yet");
    }
}

#[test]
fn values_without_a_place_are_left_out_and_counted() {
    let values = [[1e3, 2.0], [1e4, 1.0], [0.0, 1.0], [1e3, f64::NAN], [f64::INFINITY, 1.0]];
    let chart = chart(vec![points(&values)]);
    assert_eq!(draw(&chart).len(), 2);
    says(&chart, "3 values are left out");
}

#[test]
fn larger_values_stand_further_right_and_higher() {
    let places = draw(&chart(vec![points(&[[1e3, 1.0], [1e4, 2.0], [1e5, 4.0]])]));
    assert!(places.windows(2).all(|p| p[0][0] < p[1][0] && p[0][1] > p[1][1]));
    // Equal ratios on the logarithmic axis, equal differences on the linear one.
    let step = |axis: usize, index: usize| places[index + 1][axis] - places[index][axis];
    assert!((step(0, 0) - step(0, 1)).abs() < 0.02);
    assert!((2.0 * step(1, 0) - step(1, 1)).abs() < 0.04);
}

#[test]
fn one_point_and_equal_points_stand_in_the_middle() {
    for values in [vec![[1e3, 2.0]], vec![[1e3, 2.0]; 5]] {
        let chart = chart(vec![points(&values)]);
        let middle = Plot::of(&chart, &frame::Legend::of(&chart)).unwrap().area;
        for [x, y] in draw(&chart) {
            assert!((x - middle.width() / 2.0).abs() < 0.01, "{x}");
            assert!((y - middle.height() / 2.0).abs() < 0.01, "{y}");
        }
    }
}

#[test]
fn a_line_is_interrupted_where_it_has_no_place() {
    let line = vec![[1.0, 1.0], [2.0, 2.0], [3.0, f64::NAN], [4.0, 2.0], [5.0, 1.0]];
    let chart = chart(vec![Series { line, ..Series::default() }]);
    let text = svg(&chart);
    let document = Document::parse(&text).unwrap();
    let line = document
        .descendants()
        .find(|node| node.attribute("class") == Some("line"))
        .and_then(|node| node.attribute("d"))
        .unwrap();
    assert_eq!(line.matches('M').count(), 2, "{line}");
    assert_eq!(line.matches('L').count(), 2, "{line}");
}

#[test]
fn a_crowd_is_thinned_and_keeps_its_extremes() {
    let crowd: Vec<[f64; 2]> = (0..50_000u32)
        .map(|i| [1.0 + f64::from(i), if i == 33_333 { 9.0 } else { f64::from(i % 7) / 7.0 }])
        .collect();
    let lines = Series { line: crowd.clone(), ..Series::default() };
    let mut with_points = chart(vec![points(&crowd)]);
    with_points.x = Axis::linear("step");
    let drawn = draw(&with_points);
    assert!(drawn.len() < 5_000, "{}", drawn.len());
    says(&with_points, "points lie under others");
    let highest = drawn.iter().map(|[_, y]| *y).fold(f64::MAX, f64::min);
    assert!(highest < 20.0, "the one high point is gone: {highest}");

    let many = chart(vec![lines; 20]);
    let bytes = svg(&many).len();
    assert!(bytes < 2_000_000, "{bytes}");
    let one = svg(&chart(vec![many.series[0].clone()]));
    // The spike's place: 5 % padding below the top of the area.
    let top = format!(" {}", px(PLOT_HEIGHT * 0.05 / 1.1));
    assert!(one.contains(&top), "the spike at {top} is gone");
}

#[test]
fn more_series_than_are_drawn_are_counted() {
    let chart = chart(vec![points(&[[1e3, 1.0]]); SERIES_MAX + 2]);
    says(&chart, "2 further series are not drawn");
    says(&chart, "and 240 more");
}

#[test]
fn long_words_are_cut_and_kept_as_tooltips() {
    let long = "a very long name of a series that nobody can read in a legend ".repeat(5);
    let mut chart = chart(vec![points(&[[1e3, 1.0]])]);
    chart.series[0].label = long.clone();
    chart.title = long.clone();
    chart.y.label = long.clone();
    let text = svg(&chart);
    let document = Document::parse(&text).unwrap();
    let whole = document
        .descendants()
        .filter(|node| node.has_tag_name("title") && node.text() == Some(&long));
    assert_eq!(whole.count(), 3);
    assert!(text.contains('…'));
}

fn any_series() -> impl Strategy<Value = Series> {
    let number = || prop_oneof![any::<f64>(), -10.0..10.0, 1e3..1e9];
    let pair = move || (number(), number()).prop_map(|(a, b)| [a, b]);
    let point = (pair(), proptest::option::of(pair()), proptest::option::of(pair())).prop_map(
        |([x, y], x_interval, y_interval)| Point {
            x,
            y,
            x_interval,
            y_interval,
            ..Point::default()
        },
    );
    let band = (number(), number(), number()).prop_map(|(x, low, high)| Band { x, low, high });
    let style = prop_oneof![
        Just(Style::Points),
        Just(Style::Line),
        Just(Style::Dashed),
        Just(Style::Minimum)
    ];
    (
        proptest::collection::vec(point, 0..6),
        proptest::collection::vec(pair(), 0..6),
        proptest::collection::vec(band, 0..6),
        style,
        0usize..20,
    )
        .prop_map(|(points, line, band, style, group)| Series {
            label: format!("group {group}"),
            points,
            line,
            band,
            style,
            group,
            trial: None,
        })
}

proptest! {
    #[test]
    fn every_chart_is_well_formed_and_its_points_lie_inside(
        series in proptest::collection::vec(any_series(), 0..5),
        scales in any::<[bool; 2]>(),
        reference_y in proptest::option::of(any::<f64>()),
    ) {
        let [x, y] = scales.map(|log| if log { Axis::log("x") } else { Axis::linear("y") });
        let chart = Chart { x, y, reference_y, ..chart(series) };
        for [x, y] in draw(&chart) {
            prop_assert!((0.0..=WIDTH).contains(&x) && (0.0..=PLOT_HEIGHT).contains(&y), "{x} {y}");
        }
    }

    #[test]
    fn every_text_is_escaped(text in any::<String>()) {
        let mut chart = chart(vec![points(&[[1e3, 1.0]])]);
        chart.title = text.clone();
        chart.legend_title = text.clone();
        chart.x.label = text.clone();
        chart.series[0].label = text.clone();
        chart.series[0].points[0].label = text;
        let drawn = svg(&chart);
        let document = Document::parse(&drawn);
        prop_assert!(document.is_ok(), "{:?}: {drawn}", document.err());
    }
}
