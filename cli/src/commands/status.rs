//! `brine status`.

use crate::error::CliError;
use crate::listing::Listing;
use crate::number;
use crate::output::{OutputMode, Printer};
use crate::stored::{GO_ON, INTERRUPTED, Stored};
use crate::table::{Align, Table};
use crate::target::{Connection, Target};
use proto::wire::{AgentView, ExperimentSummary, WithdrawnGpu};

/// Show experiments and agents, or the trials of one experiment
///
/// Also works when no coordinator runs: then it shows what the data folder holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show the trials of this experiment: its id or the start of it
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,

    /// Show its trials from this one on, in planning order, from 1. A long list is shown by its
    /// start and its newest trials
    #[arg(long, value_name = "N", requires = "experiment", value_parser = clap::value_parser!(u32).range(1..))]
    from: Option<u32>,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(printer, async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    if let Some(wanted) = &args.experiment {
        let id = connection.experiment(Some(wanted)).await?;
        let from = args.from.map_or(0, |from| from as usize - 1);
        let listing = Listing::read(&mut connection.client, &id, from).await?;
        return show_trials(&listing, from, connection.client.stored(), printer);
    }
    let mut experiments = connection.client.experiments().await?;
    let agents = connection.client.agents().await?;
    experiments
        .sort_by(|a, b| (b.submitted_ms, &b.experiment).cmp(&(a.submitted_ms, &a.experiment)));
    if printer.mode() == OutputMode::Json {
        let stored = connection.client.stored();
        return printer.json(&serde_json::json!({
            "coordinator": stored.is_none().then(|| connection.client.url()),
            "stored": stored.map(Stored::json),
            "experiments": experiments.iter().map(experiment_json).collect::<Vec<_>>(),
            "agents": agents.iter().map(agent_json).collect::<Vec<_>>(),
        }));
    }
    printer.data(&experiment_table(&experiments).render())?;
    printer.data("")?;
    printer.data(&agent_table(&agents).render())?;
    let withdrawn = withdrawn_lines(&agents);
    if !withdrawn.is_empty() {
        printer.data("")?;
        printer.data(&withdrawn.join("\n"))?;
        printer.hint("reset such a GPU or restart its machine, then restart the agent");
    }
    if experiments.iter().any(|summary| summary.state == INTERRUPTED) {
        printer.hint(GO_ON);
    }
    Ok(())
}

fn show_trials(
    listing: &Listing,
    from: usize,
    stored: Option<&Stored>,
    printer: &Printer,
) -> Result<(), CliError> {
    let (snapshot, left_out) = (&listing.snapshot, listing.left_out(from));
    if printer.mode() == OutputMode::Json {
        let trials = listing.trials().map(|trial| {
            let newest = listing.live.get(&trial.id);
            serde_json::json!({
                "id": trial.id,
                "state": trial.word,
                "attempts": trial.attempts,
                "agent": trial.agent,
                "parameters": trial.spec.parameters,
                "seed": trial.spec.seed,
                "outcome": trial.outcome,
                "waiting_for": trial.waiting_for,
                "step": newest.map(|newest| newest.step),
            })
        });
        return printer.json(&serde_json::json!({
            "experiment": snapshot.experiment,
            "state": snapshot.word(),
            "stored": stored.map(Stored::json),
            "planned": listing.planned,
            "ended": listing.ended,
            "running": listing.running,
            "left_out": left_out,
            "trials": trials.collect::<Vec<_>>(),
        }));
    }
    printer.data(&format!(
        "{} is {}: {} of {} ended, {} running",
        snapshot.experiment,
        snapshot.word(),
        listing.ended,
        number::plural(listing.planned, "trial"),
        listing.running
    ))?;
    printer.data(&listing.table().render())?;
    if snapshot.is_interrupted {
        printer.hint(GO_ON);
    }
    if left_out > 0 {
        printer.data(&format!("{} not shown", number::plural(left_out, "trial")))?;
        let next = from + snapshot.trials.len() + 1;
        printer.hint(&format!("see more with: brine status {} --from {next}", snapshot.experiment));
    }
    Ok(())
}

fn experiment_table(experiments: &[ExperimentSummary]) -> Table {
    let mut table = Table::new(&[
        ("experiment", Align::Left),
        ("state", Align::Left),
        ("trials", Align::Right),
        ("ended", Align::Right),
        ("running", Align::Right),
        ("submitted", Align::Left),
    ]);
    for summary in experiments {
        table.row([
            summary.experiment.clone(),
            summary.state.clone(),
            summary.trials.to_string(),
            summary.ended.to_string(),
            summary.running.to_string(),
            number::local_time(summary.submitted_ms),
        ]);
    }
    table
}

fn agent_table(agents: &[AgentView]) -> Table {
    let columns = [
        ("agent", Align::Left),
        ("host", Align::Left),
        ("connected", Align::Left),
        ("CPU slots used", Align::Right),
        ("GPUs used", Align::Right),
        ("GPU", Align::Left),
        ("running", Align::Left),
    ];
    let mut table = Table::new(&columns).cut(&["agent", "host", "GPU", "running"]);
    for agent in agents {
        let running: Vec<&str> = agent.running.iter().map(|held| held.trial.as_str()).collect();
        let gpu = agent.gpus.first();
        table.row([
            agent.agent.clone(),
            agent.host.clone(),
            if agent.connected { "yes" } else { "no" }.to_owned(),
            used(agent.cpus_free, agent.cpus),
            used(agent.gpus_free, agent.gpus_offered() as u32),
            gpu.map_or_else(|| "-".to_owned(), |gpu| gpu.name.clone()),
            running.join(" "),
        ]);
    }
    table
}

/// Which GPUs are out of use, and why.
fn withdrawn_lines(agents: &[AgentView]) -> Vec<String> {
    let lines = agents.iter().flat_map(|agent| {
        let line = |gpu: &WithdrawnGpu| {
            format!("agent {} has withdrawn GPU {}: {}", agent.agent, gpu.index, gpu.reason)
        };
        agent.withdrawn.iter().map(line)
    });
    lines.collect()
}

/// `1/2`: as `brine top` says it.
fn used(free: u32, all: u32) -> String {
    format!("{}/{all}", all.saturating_sub(free))
}

fn experiment_json(summary: &ExperimentSummary) -> serde_json::Value {
    serde_json::json!({
        "experiment": summary.experiment,
        "state": summary.state,
        "submitted_ms": summary.submitted_ms,
        "trials": summary.trials,
        "ended": summary.ended,
        "running": summary.running,
    })
}

fn agent_json(agent: &AgentView) -> serde_json::Value {
    let gpu = |gpu: &proto::wire::Gpu| {
        serde_json::json!({
            "index": gpu.index, "name": gpu.name, "memory_bytes": gpu.memory_bytes,
        })
    };
    let withdrawn =
        |gpu: &WithdrawnGpu| serde_json::json!({ "index": gpu.index, "reason": gpu.reason });
    serde_json::json!({
        "agent": agent.agent,
        "host": agent.host,
        "connected": agent.connected,
        "cpus": agent.cpus,
        "cpus_free": agent.cpus_free,
        "gpus": agent.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "gpus_free": agent.gpus_free,
        "gpus_withdrawn": agent.withdrawn.iter().map(withdrawn).collect::<Vec<_>>(),
        "running": agent.running.iter().map(|held| &held.trial).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withdrawn_gpu_is_named_with_its_agent_and_counts_for_nothing() {
        let gpu = |index| proto::wire::Gpu { index, name: "H100".into(), memory_bytes: 80 << 30 };
        let reason = "GPU 1 reported Xid 79 (the GPU has fallen off the bus)";
        let lacking = AgentView {
            agent: "a".into(),
            gpus: vec![gpu(0), gpu(1), gpu(2)],
            gpus_free: 1,
            withdrawn: vec![WithdrawnGpu { index: 1, reason: reason.into() }],
            ..AgentView::default()
        };
        let whole = AgentView { agent: "b".into(), gpus: vec![gpu(0)], ..AgentView::default() };
        assert!(agent_table(std::slice::from_ref(&lacking)).render().contains(" 1/2 "));
        let json = agent_json(&lacking);
        assert_eq!(json["gpus_withdrawn"][0]["index"], 1);
        assert_eq!(json["gpus_withdrawn"][0]["reason"], reason);
        let expected = [format!("agent a has withdrawn GPU 1: {reason}")];
        assert_eq!(withdrawn_lines(&[whole, lacking]), expected);
    }
}
