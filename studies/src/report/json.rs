//! A report as JSON.

use super::provenance::{Provenance, TrialRow};
use super::{Report, Section};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything in one object: `experiment`, `state`, `trials` and `study` (the report's summary),
/// as `brine results --output json` prints them, then the sections with their figures and tables,
/// the notes, the recipe and the versions.
///
/// Numbers that are not finite become `null`.
///
/// # Errors
/// The summary or a map in it cannot be written as JSON.
pub fn json(report: &Report, provenance: &Provenance) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Document<'a> {
        experiment: &'a str,
        state: &'static str,
        trials: &'a [TrialRow],
        study: &'a serde_json::Value,
        title: &'a str,
        notes: &'a [String],
        sections: &'a [Section],
        recipe: &'a str,
        code_version: &'a str,
        data_hash: Option<&'a str>,
        created_at: &'a str,
        facts: BTreeMap<&'a str, &'a str>,
    }
    let facts = provenance.facts.iter();
    serde_json::to_string_pretty(&Document {
        experiment: provenance.experiment.as_str(),
        state: provenance.word(),
        trials: &provenance.trials,
        study: &report.summary,
        title: &report.title,
        notes: &report.notes,
        sections: &report.sections,
        recipe: &provenance.recipe,
        code_version: &provenance.code_version,
        data_hash: provenance.data_hash.as_ref().map(proto::BlobId::as_str),
        created_at: &provenance.created_at,
        facts: facts.map(|(n, v)| (n.as_str(), v.as_str())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Cell, Column, Section, Table};
    use proto::{ExperimentId, ExperimentState, TrialId};

    #[test]
    fn the_document_has_what_results_prints_and_no_invalid_number() {
        let trial = TrialRow {
            id: TrialId::from_hash(blake3::hash(b"trial")),
            attempts: 1,
            state: "completed".into(),
            parameters: BTreeMap::new(),
            metrics: BTreeMap::from([("loss".into(), 0.1 + 0.2), ("bad".into(), f64::NAN)]),
            seed: u64::MAX,
            agent: None,
            checkpoint: None,
            data_hash: None,
            code_version: "brine".into(),
            message: None,
        };
        let interval = Cell::Interval { value: 1.0, low: f64::NEG_INFINITY, high: 2.0 };
        let table = Table {
            name: "fits".into(),
            caption: String::new(),
            columns: vec![Column::number("a", "")],
            rows: vec![vec![interval], vec![Cell::missing("no minimum")]],
        };
        let report = Report {
            summary: serde_json::json!({"parametric": {"a": 0.5}}),
            sections: vec![Section { tables: vec![table], ..Section::default() }],
            ..Report::default()
        };
        let mut provenance = Provenance {
            experiment: ExperimentId::new("mini-0").unwrap(),
            state: ExperimentState::Complete,
            interrupted: false,
            recipe: String::new(),
            code_version: String::new(),
            data_hash: None,
            created_at: String::new(),
            facts: vec![],
            trials: vec![trial],
            curves: Vec::new(),
        };
        let text = json(&report, &provenance).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["experiment"], "mini-0");
        assert_eq!(read["state"], "complete");
        assert_eq!(read["study"]["parametric"]["a"], 0.5);
        assert_eq!(read["trials"][0]["seed"], u64::MAX);
        assert_eq!(read["trials"][0]["metrics"]["loss"], 0.1 + 0.2);
        assert_eq!(read["trials"][0]["metrics"]["bad"], serde_json::Value::Null);
        let rows = &read["sections"][0]["tables"][0]["rows"];
        assert_eq!(rows[0][0]["low"], serde_json::Value::Null);
        assert_eq!(rows[1][0]["missing"], "no minimum");
        provenance.interrupted = true;
        let text = json(&report, &provenance).unwrap();
        assert!(text.contains(r#""state": "interrupted""#), "{text}");
    }
}
