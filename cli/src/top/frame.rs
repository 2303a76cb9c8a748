//! What is known as lines of text for a terminal of a given size. Pure, so that a frame can be
//! compared with what it should be.

use crate::live::Newest;
use crate::number;
use crate::table::{Align, Table, shortened};
use serde::Serialize;

/// Rows of the agents and of the experiments on a terminal that is too low for all, as shares of
/// its height; the running trials get the rest.
const AGENTS_SHARE: usize = 4;
const EXPERIMENTS_SHARE: usize = 3;
/// Lines of a section besides its rows: its head, what is left out, an empty one.
const SECTION_LINES: usize = 3;
/// Rows that a section has on any terminal.
const ROWS_MIN: usize = 2;

/// Everything that a frame shows, in its order.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) coordinator: String,
    /// Why the numbers are old; empty while the coordinator answers.
    pub(super) lost: String,
    pub(super) agents: Vec<AgentRow>,
    pub(super) experiments: Vec<ExperimentRow>,
    pub(super) trials: Vec<TrialRow>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct AgentRow {
    pub(super) agent: String,
    pub(super) host: String,
    pub(super) connected: bool,
    pub(super) cpus_used: u32,
    pub(super) cpus: u32,
    pub(super) gpus_used: u32,
    /// That it offers.
    pub(super) gpus: u32,
    pub(super) gpus_withdrawn: usize,
    /// Name of the first one; empty without any.
    pub(super) gpu: String,
    pub(super) running: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ExperimentRow {
    pub(super) experiment: String,
    pub(super) state: String,
    /// `None`: its recipe was not read.
    pub(super) priority: Option<i32>,
    pub(super) trials: u32,
    pub(super) ended: u32,
    pub(super) running: u32,
    /// Trials that ended per second; `None` before the second frame.
    pub(super) ended_per_s: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct TrialRow {
    pub(super) trial: String,
    pub(super) attempt: u32,
    pub(super) agent: String,
    pub(super) newest: Option<Newest>,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Head,
    Faint,
    Alarm,
}

/// One line of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Line {
    fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

/// The frame for a terminal of `width` times `height` characters.
pub(super) fn lines(view: &View, width: usize, height: usize) -> Vec<Line> {
    let mut lines = vec![head(view)];
    if !view.lost.is_empty() {
        lines.push(Line::new(format!("no answer: {}", view.lost), Tone::Alarm));
    }
    lines.push(Line::new("", Tone::Plain));
    let agents = view.agents.len().min((height / AGENTS_SHARE).max(ROWS_MIN));
    section(&mut lines, &agent_table(&view.agents[..agents]), width, "agent");
    left_out(&mut lines, view.agents.len() - agents, "agent");
    let experiments = view.experiments.len().min((height / EXPERIMENTS_SHARE).max(ROWS_MIN));
    section(&mut lines, &experiment_table(&view.experiments[..experiments]), width, "experiment");
    left_out(&mut lines, view.experiments.len() - experiments, "experiment");
    let rest = height.saturating_sub(lines.len() + SECTION_LINES).max(ROWS_MIN);
    let trials = view.trials.len().min(rest);
    section(&mut lines, &trial_table(&view.trials[..trials]), width, "running trial");
    left_out(&mut lines, view.trials.len() - trials, "running trial");
    for line in &mut lines {
        line.text = shortened(&line.text, width);
    }
    lines
}

fn head(view: &View) -> Line {
    let sum = |of: fn(&AgentRow) -> u32| -> u32 {
        view.agents.iter().filter(|agent| agent.connected).map(of).sum()
    };
    let mut text = format!(
        "brine top  {}  CPU slots {}/{} used",
        view.coordinator,
        sum(|agent| agent.cpus_used),
        sum(|agent| agent.cpus)
    );
    if sum(|agent| agent.gpus) > 0 {
        let (used, all) = (sum(|agent| agent.gpus_used), sum(|agent| agent.gpus));
        text = format!("{text}  GPUs {used}/{all} used");
    }
    text.push_str("  q ends");
    Line::new(text, Tone::Head)
}

fn section(lines: &mut Vec<Line>, table: &Table, width: usize, noun: &str) {
    if table.is_empty() {
        lines.push(Line::new(format!("no {noun}"), Tone::Faint));
    } else {
        let text = table.render_within(Some(width));
        let rows = text.lines().enumerate();
        let tone = |index| if index == 0 { Tone::Head } else { Tone::Plain };
        lines.extend(rows.map(|(index, row)| Line::new(row, tone(index))));
    }
}

fn left_out(lines: &mut Vec<Line>, count: usize, noun: &str) {
    if count > 0 {
        lines.push(Line::new(format!("and {} more", number::plural(count, noun)), Tone::Faint));
    }
    lines.push(Line::new("", Tone::Plain));
}

fn agent_table(agents: &[AgentRow]) -> Table {
    let columns = [
        ("agent", Align::Left),
        ("host", Align::Left),
        ("CPU slots used", Align::Right),
        ("GPUs used", Align::Right),
        ("running", Align::Right),
        ("GPU", Align::Left),
    ];
    let mut table = Table::new(&columns).cut(&["agent", "host", "GPU"]);
    for agent in agents {
        let note = match (agent.connected, agent.gpus_withdrawn) {
            (false, _) => "not connected".to_owned(),
            (true, 0) => agent.gpu.clone(),
            (true, lost) => format!("{}; {lost} withdrawn: see brine status", agent.gpu),
        };
        table.row([
            agent.agent.clone(),
            agent.host.clone(),
            format!("{}/{}", agent.cpus_used, agent.cpus),
            format!("{}/{}", agent.gpus_used, agent.gpus),
            agent.running.to_string(),
            note,
        ]);
    }
    table
}

fn experiment_table(experiments: &[ExperimentRow]) -> Table {
    let columns = [
        ("experiment", Align::Left),
        ("state", Align::Left),
        ("priority", Align::Right),
        ("ended", Align::Right),
        ("running", Align::Right),
        ("ended/s", Align::Right),
    ];
    let mut table = Table::new(&columns).cut(&["experiment"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in experiments {
        table.row([
            row.experiment.clone(),
            row.state.clone(),
            or_dash(row.priority.map(|priority| priority.to_string())),
            format!("{}/{}", row.ended, row.trials),
            row.running.to_string(),
            or_dash(row.ended_per_s.map(|rate| format!("{rate:.1}"))),
        ]);
    }
    table
}

fn trial_table(trials: &[TrialRow]) -> Table {
    let columns = [
        ("running trial", Align::Left),
        ("attempt", Align::Right),
        ("agent", Align::Left),
        ("step", Align::Right),
        ("newest", Align::Left),
    ];
    let mut table = Table::new(&columns).cut(&["agent", "newest"]);
    for row in trials {
        let newest = row.newest.as_ref();
        let shown = newest.and_then(|newest| newest.shown.as_ref());
        table.row([
            row.trial.clone(),
            row.attempt.to_string(),
            row.agent.clone(),
            newest.map_or_else(|| "-".to_owned(), |newest| newest.step.to_string()),
            shown.map_or_else(
                || "-".to_owned(),
                |(name, value)| format!("{name}={}", number::short(*value)),
            ),
        ]);
    }
    table
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
