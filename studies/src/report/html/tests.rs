use super::*;
use crate::report::chart::Point;
use crate::report::provenance::Curve;
use crate::report::table::{Column, Table};
use proto::{AgentId, Attempt, BlobId, Checkpoint, CheckpointFile, ExperimentId};

/// Breaks out of text, of attributes and of a style, if anything lets it.
const HOSTILE: &str = "</style></title>\"'><script>alert(1)</script>&<img src=x onerror=y>\u{1}";

fn id(index: usize) -> TrialId {
    TrialId::from_hash(blake3::hash(&index.to_le_bytes()))
}

fn trial(index: usize) -> TrialRow {
    TrialRow {
        id: id(index),
        attempts: 2,
        state: "completed".into(),
        parameters: BTreeMap::from([("width".into(), Value::Integer(index as i64 % 3))]),
        metrics: BTreeMap::from([("validation_loss".into(), 3.25)]),
        seed: 40_000 + index as u64,
        agent: Some(AgentId::new("agent-7").unwrap()),
        checkpoint: Some(Checkpoint {
            step: 812,
            attempt: Attempt(2),
            agent: AgentId::new("agent-7").unwrap(),
            folder: "checkpoints".into(),
            files: vec![CheckpointFile {
                name: "model.safetensors".into(),
                hash: BlobId::from_hash(blake3::hash(b"checkpoint")),
                bytes: 5,
            }],
        }),
        data_hash: Some(BlobId::from_hash(blake3::hash(b"data"))),
        code_version: "brine 9.8.7 (abcdef0)".into(),
        message: None,
    }
}

fn provenance(trials: usize) -> Provenance {
    Provenance {
        experiment: ExperimentId::new("mini-0").unwrap(),
        state: ExperimentState::Complete,
        interrupted: false,
        recipe: "kind: Experiment".into(),
        code_version: "brine 9.8.7 (abcdef0)".into(),
        data_hash: None,
        created_at: "2026-01-01".into(),
        facts: vec![],
        trials: (0..trials).map(trial).collect(),
        curves: Vec::new(),
    }
}

/// A report with a point and a table row for each of `trials`.
fn report(trials: &[usize], words: &str) -> Report {
    let points = trials.iter().map(|index| Point {
        x: 1.0 + *index as f64,
        y: 2.0,
        trial: Some(id(*index)),
        label: words.into(),
        ..Point::default()
    });
    let chart = Chart {
        title: words.into(),
        x: Axis::linear(words),
        y: Axis::linear(words),
        series: vec![Series { label: words.into(), points: points.collect(), ..Series::default() }],
        legend_title: words.into(),
        ..Chart::default()
    };
    let row =
        |index: &usize| vec![Cell::Trial(id(*index)), Cell::text(words), Cell::missing(words)];
    Report {
        title: words.into(),
        sections: vec![Section {
            heading: words.into(),
            text: vec![words.into()],
            figures: vec![Figure { name: "figure".into(), caption: words.into(), chart }],
            tables: vec![Table {
                name: words.into(),
                caption: words.into(),
                columns: ["a", "b", words].map(Column::text).to_vec(),
                rows: trials.iter().map(row).collect(),
            }],
        }],
        notes: vec![words.into()],
        ..Report::default()
    }
}

/// All values of an attribute.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let rest = page.split(start.as_str()).skip(1);
    rest.filter_map(|rest| rest.split_once('"')).map(|(value, _)| value).collect()
}

#[test]
fn every_link_leads_to_an_entry_that_shows_where_the_number_comes_from() {
    let page = html(&report(&[0, 1, 2], "words"), &provenance(3));
    let ids: BTreeSet<&str> = values(&page, "id").into_iter().collect();
    let links = values(&page, "href");
    for index in 0..3 {
        let link = format!("#trial-{}", id(index));
        // One each from the figure, the table and the entry itself.
        assert_eq!(links.iter().filter(|other| **other == link).count(), 3);
        assert!(page.contains(&format!("seed {}", 40_000 + index)));
    }
    for link in links.iter().filter_map(|link| link.strip_prefix('#')) {
        assert!(ids.contains(link), "{link} leads nowhere");
    }
    let [data, checkpoint] = ["data", "checkpoint"].map(|text| blake3::hash(text.as_bytes()));
    for shown in [
        data.to_string(),
        checkpoint.to_string(),
        "brine 9.8.7 (abcdef0)".to_owned(),
        "2 attempts".to_owned(),
        "on agent-7".to_owned(),
        "<dt>validation_loss</dt><dd>3.25</dd>".to_owned(),
        "<dt>width</dt><dd>1</dd>".to_owned(),
    ] {
        assert!(page.contains(&shown), "{shown}");
    }
}

#[test]
fn a_point_of_an_unknown_trial_has_no_link() {
    let page = html(&report(&[0, 7], "words"), &provenance(1));
    assert!(!page.contains(&format!("#trial-{}", id(7))));
    assert!(page.contains(&format!("trial {}", id(7))));
}

#[test]
fn of_very_many_trials_those_that_figures_name_are_shown() {
    let last = TRIALS_MAX + 4;
    let page = html(&report(&[last], "words"), &provenance(last + 1));
    assert!(values(&page, "id").contains(&format!("trial-{}", id(last)).as_str()));
    assert_eq!(page.matches("<article").count(), TRIALS_MAX);
    assert!(page.contains("5 further trials"));
}

#[test]
fn no_text_can_break_out() {
    let mut provenance = provenance(2);
    provenance.recipe = HOSTILE.into();
    provenance.code_version = HOSTILE.into();
    provenance.created_at = HOSTILE.into();
    provenance.facts = vec![(HOSTILE.into(), HOSTILE.into())];
    let hostile = &mut provenance.trials[1];
    hostile.state = HOSTILE.into();
    hostile.code_version = HOSTILE.into();
    hostile.message = Some(HOSTILE.into());
    hostile.metrics = BTreeMap::from([(HOSTILE.into(), f64::NAN)]);
    hostile.parameters = BTreeMap::from([(HOSTILE.into(), Value::Text(HOSTILE.into()))]);
    if let Some(checkpoint) = &mut hostile.checkpoint {
        checkpoint.folder = HOSTILE.into();
        checkpoint.files[0].name = HOSTILE.into();
    }
    provenance.curves = vec![LearningCurves {
        x: Axis::linear(HOSTILE),
        y: Axis::linear(HOSTILE),
        curves: vec![Curve { trial: id(1), points: vec![[0.0, 1.0]] }],
    }];
    let report = Report { curve_parameter: Some(HOSTILE.into()), ..report(&[0, 1], HOSTILE) };
    let page = html(&report, &provenance);
    for forbidden in ["<script", "<img", "onerror=y>", "\u{1}"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn learning_curves_of_one_value_share_colour_and_legend() {
    let curve = |index| Curve { trial: id(index), points: vec![[1.0, 4.0], [2.0, f64::NAN]] };
    let curves = LearningCurves {
        x: Axis::linear("tokens"),
        y: Axis::linear("loss"),
        curves: (0..5).map(curve).collect(),
    };
    let report = Report { curve_parameter: Some("width".into()), ..Report::default() };
    let chart = learning_chart(&report, &provenance(5), &curves);
    let shown: Vec<(usize, &str)> =
        chart.series.iter().map(|series| (series.group, series.label.as_str())).collect();
    assert_eq!(shown, [(0, "0"), (0, ""), (1, "1"), (1, ""), (2, "2")]);
    // Each line has its own link.
    let links = BTreeSet::from_iter(chart.series.iter().map(|series| &series.trial));
    assert_eq!(links.len(), 5);
}

#[test]
fn a_long_table_is_cut_with_a_note_and_an_empty_one_says_so() {
    let trials: Vec<usize> = (0..501).collect();
    let page = html(&report(&trials, "words"), &provenance(1));
    assert!(page.contains("The first 500 of 501 rows"));
    let page = html(&report(&[], "words"), &provenance(1));
    assert!(page.contains("no rows yet"));
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let page = html(&report(&[0], "words"), &provenance(1));
    for forbidden in ["<script", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let elsewhere = values(&page, "href").into_iter();
    assert!(
        elsewhere.clone().all(|link| link.starts_with('#') || link.starts_with("data:text/csv"))
    );
}
