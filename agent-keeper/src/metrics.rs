//! How a program reports numbers: lines of JSON in a pipe, for example
//! `{"metric": "loss", "step": 10, "value": 2.3}`.

use crate::log::Log;
use crate::order::Metric;
use proto::number::quote_undefined;
use std::collections::BTreeMap;

/// Names the descriptor to which a program writes its metrics.
pub const PIPE_FD_VARIABLE: &str = "BRINE_METRICS_FD";
/// Names the pipe as a file.
pub const PIPE_PATH_VARIABLE: &str = "BRINE_METRICS_PIPE";
/// Longest line. Linux keeps writes of at most this length whole when several processes write.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;
/// Distinct names of metrics in one attempt; they all go into its outcome.
const NAMES_MAX: usize = 256;
/// Longest name.
const NAME_BYTES_MAX: usize = 128;
/// How much of a malformed line is shown in the log.
const SHOWN_BYTES: usize = 200;

/// What a program reported.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// The last value of every metric and its step; of one that is no number, the step from which
    /// on it is none.
    last: BTreeMap<String, (u64, f64)>,
    line: Vec<u8>,
    overlong: bool,
}

impl Metrics {
    /// Takes in bytes of the pipe: good metrics go to `sink`, bad lines into the log.
    pub(crate) fn receive(&mut self, bytes: &[u8], log: &mut Log, mut sink: impl FnMut(Metric)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = (LINE_BYTES_MAX + 1).saturating_sub(self.line.len());
            self.overlong |= piece.len() > room;
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.line_ended(log, &mut sink);
            }
        }
    }

    /// The program ended, perhaps without ending its last line. Answers the last value of every
    /// metric and its step; of one that is no number, the step from which on it is none.
    pub(crate) fn finish(
        mut self,
        log: &mut Log,
        mut sink: impl FnMut(Metric),
    ) -> BTreeMap<String, (u64, f64)> {
        self.line_ended(log, &mut sink);
        self.last
    }

    fn line_ended(&mut self, log: &mut Log, sink: &mut impl FnMut(Metric)) {
        let line = std::mem::take(&mut self.line);
        let overlong = std::mem::take(&mut self.overlong);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let parsed = if overlong {
            Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))
        } else {
            parse(text)
        };
        match parsed.and_then(|metric| self.take(metric)) {
            Ok(metric) => sink(metric),
            Err(reason) => {
                let end = (0..=SHOWN_BYTES.min(text.len())).rev();
                let end = end.into_iter().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                log.note(&format!("a metric line was ignored, {reason}: {}", &text[..end]));
            }
        }
    }

    fn take(&mut self, metric: Metric) -> Result<Metric, String> {
        if self.last.len() >= NAMES_MAX && !self.last.contains_key(&metric.metric) {
            return Err(format!("there are already {NAMES_MAX} metrics with other names"));
        }
        let before = self.last.get(&metric.metric);
        let since = before.filter(|(_, value)| !value.is_finite() && !metric.value.is_finite());
        let step = since.map_or(metric.step, |(step, _)| *step);
        self.last.insert(metric.metric.clone(), (step, metric.value));
        Ok(metric)
    }
}

fn parse(line: &str) -> Result<Metric, String> {
    let metric: Metric =
        serde_json::from_str(&quote_undefined(line)).map_err(|error| error.to_string())?;
    check_name(&metric.metric)?;
    Ok(metric)
}

/// Refuses what is not the name of a metric.
///
/// # Errors
/// What a name must be.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("a metric's name has 1 to {NAME_BYTES_MAX} printable bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, u64, f64)>) {
        let found = parse(line).ok();
        let found = found.map(|metric| (metric.metric, metric.step, metric.value.to_bits()));
        let expected = expected.map(|(name, step, value)| (name.into(), step, value.to_bits()));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn what_is_no_number_has_the_step_from_which_on_it_is_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut metrics = Metrics::default();
        let mut log = Log::new(folder.path());
        for (step, value) in [(1, "NaN"), (2, "0.5"), (3, "NaN"), (4, "Infinity"), (5, "NaN")] {
            let line = format!("{{\"metric\": \"loss\", \"step\": {step}, \"value\": {value}}}\n");
            metrics.receive(line.as_bytes(), &mut log, drop);
        }
        let (step, value) = metrics.finish(&mut log, drop)["loss"];
        assert!(step == 3 && value.is_nan(), "{step} {value}");
    }

    #[test]
    fn metric_lines_are_read_as_programs_write_them() {
        check(r#"{"metric": "loss", "step": 10, "value": 2.3}"#, Some(("loss", 10, 2.3)));
        check(r#"{"metric": "n", "step": 0, "value": 3}"#, Some(("n", 0, 3.0)));
        check(r#"{"metric": "l", "step": 1, "value": NaN}"#, Some(("l", 1, f64::NAN)));
        check(r#"{"metric": "l", "step": 1, "value": null}"#, Some(("l", 1, f64::NAN)));
        check(
            r#"{"metric": "l", "step": 1, "value": -Infinity}"#,
            Some(("l", 1, f64::NEG_INFINITY)),
        );
        check(r#"{"metric": "", "step": 1, "value": 1}"#, None);
        check(r#"{"metric": "l", "step": -1, "value": 1}"#, None);
        check(r#"{"metric": "l", "step": 1, "value": "7"}"#, None);
        check(r#"{"metric": "l", "step": 1}"#, None);
        check(r#"{"metric": "l", "step": 1, "value": 1, "epoch": 2}"#, None);
        check("loss 3", None);
    }
}
