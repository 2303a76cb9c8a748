//! Progress as bars. The only file that knows indicatif.

use super::plain::overall_line;
use super::state::{Phase, Progress, Trial};
use crate::number;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::TrialId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bars for single trials; more would push the experiment's bar off a small terminal.
const TRIAL_BARS_MAX: usize = 12;
/// Resolution of the experiment's bar, which shows a share of work.
const OVERALL_POSITIONS: u64 = 1_000;
/// Redraws per second.
const REFRESH_HZ: u8 = 15;
/// Time between two pictures of a spinner.
const SPINNER_EVERY: Duration = Duration::from_millis(120);

/// The lower edge of stderr, where bars live. Clones share it.
#[derive(Clone)]
pub(crate) struct Screen(MultiProgress);

impl Screen {
    /// Bars are drawn on stderr.
    pub(crate) fn on_stderr() -> Self {
        Self(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REFRESH_HZ)))
    }

    /// Bars are not drawn.
    pub(crate) fn hidden() -> Self {
        Self(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()))
    }

    /// Writes something while the bars are out of the way.
    pub(crate) fn suspended<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// A sign of life for work whose length nobody knows; it ends when the answer is dropped.
    pub(crate) fn spinner(&self, text: &str) -> Spinner {
        let bar = self.0.add(ProgressBar::new_spinner());
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(SPINNER_EVERY);
        Spinner(bar)
    }

    /// A bar over `bytes`; it ends when the answer is dropped.
    pub(crate) fn transfer(&self, text: &str, bytes: u64) -> Transfer {
        let bar = self.0.add(ProgressBar::new(bytes));
        bar.set_style(style("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left"));
        bar.set_message(text.to_owned());
        Transfer(bar)
    }

    /// A bar over `count` things; it ends when the answer is dropped.
    pub(crate) fn counted(&self, text: &str, count: u64) -> Transfer {
        let bar = self.0.add(ProgressBar::new(count));
        bar.set_style(style("{msg} [{bar:30}] {pos}/{len} {per_sec} {eta} left"));
        bar.set_message(text.to_owned());
        Transfer(bar)
    }
}

/// See [`Screen::spinner`].
pub(crate) struct Spinner(ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Screen::transfer`] and [`Screen::counted`].
pub(crate) struct Transfer(ProgressBar);

impl Transfer {
    /// Bytes moved, or things done, since the last call.
    pub(crate) fn advance(&self, more: u64) {
        self.0.inc(more);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// One bar per running trial, and one for the experiment below them.
pub(crate) struct Bars {
    screen: Screen,
    overall: ProgressBar,
    trials: BTreeMap<TrialId, ProgressBar>,
}

impl Bars {
    /// An empty experiment bar.
    pub(crate) fn new(screen: &Screen) -> Self {
        let overall = screen.0.add(ProgressBar::new(OVERALL_POSITIONS));
        overall.set_style(style("{elapsed} [{bar:12}] {wide_msg}"));
        Self { screen: screen.clone(), overall, trials: BTreeMap::new() }
    }

    /// Draws what is known at `now_ms`.
    pub(crate) fn draw(&mut self, progress: &Progress, now_ms: u64) {
        let shown: Vec<(&TrialId, &Trial)> = progress.running().take(TRIAL_BARS_MAX).collect();
        self.trials.retain(|id, bar| {
            let keep = shown.iter().any(|(shown, _)| *shown == id);
            if !keep {
                bar.finish_and_clear();
                self.screen.0.remove(bar);
            }
            keep
        });
        for (id, trial) in shown {
            let bar = self
                .trials
                .entry(id.clone())
                .or_insert_with(|| trial_bar(&self.screen, &self.overall, trial));
            if let Some(live) = trial.live() {
                bar.set_position(live.step);
            }
            bar.set_message(trial_line(id, trial, &progress.label(trial)));
        }
        let overall = progress.overall(now_ms);
        self.overall.set_position((overall.fraction * OVERALL_POSITIONS as f64) as u64);
        let mut line = overall_line(&overall);
        if overall.running > TRIAL_BARS_MAX {
            line.push_str(" (not all of them are shown)");
        }
        self.overall.set_message(line);
    }
}

/// Nothing stays on the screen: what is worth keeping was said in lines.
impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.trials.values() {
            bar.finish_and_clear();
        }
        self.overall.finish_and_clear();
    }
}

fn trial_bar(screen: &Screen, below: &ProgressBar, trial: &Trial) -> ProgressBar {
    let bar = match trial.steps {
        Some(steps) => {
            let bar = ProgressBar::new(steps);
            bar.set_style(style("  [{bar:12}] {pos}/{len} {wide_msg}"));
            bar
        }
        None => {
            let bar = ProgressBar::no_length();
            bar.set_style(style("  [step {pos}] {wide_msg}"));
            bar
        }
    };
    screen.0.insert_before(below, bar)
}

/// `loss=2.31 12.4k tokens/s 1m 05s left  3f… width=64 on local-0`.
fn trial_line(id: &TrialId, trial: &Trial, label: &str) -> String {
    let mut parts = Vec::new();
    match (&trial.phase, trial.live()) {
        (_, Some(live)) => {
            if let Some((name, value)) = &live.shown {
                parts.push(format!("{name}={}", number::short(*value)));
            }
            if let Some(rate) = trial.tokens_per_s() {
                parts.push(format!("{} tokens/s", number::count(rate)));
            } else if let Some(rate) = live.steps_per_s {
                parts.push(format!("{} steps/s", number::short(rate)));
            }
            if let Some(rest_s) = trial.rest_s() {
                parts.push(format!("{} left", number::duration_s(rest_s)));
            }
        }
        (Phase::Leased { .. } | Phase::Waiting | Phase::Ended(_), None) => {
            parts.push("starting".to_owned());
        }
    }
    parts.push(format!("{id} {label}"));
    if let Phase::Leased { attempt, agent, .. } = &trial.phase {
        parts.push(format!("on {agent}"));
        if attempt.0 > 1 {
            parts.push(format!("attempt {attempt}"));
        }
    }
    parts.join(" ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants in this file")
        .progress_chars("=> ")
}
