//! One look at the coordinator for its monitoring.

use super::Service;
use crate::core::{Agent, Core};
use crate::measures::{AGENTS_SHOWN_MAX, Seen};
use proto::{AgentId, ExperimentState, Timestamp, TrialId};
use std::ops::Bound;
use std::sync::Arc;
use tonic::Status;

/// Trials that are counted between two turns: about a millisecond. All of them at once would hold
/// up leases when there are millions.
const PAGE_TRIALS: usize = 10_000;

/// Looks. What is counted page by page may be of different turns.
pub(crate) async fn look(service: &Service) -> Result<Seen, Status> {
    let mut seen = service.ask(whole).await?;
    let mut last: Option<TrialId> = None;
    loop {
        let from = last.clone();
        let (words, end) = service.ask(move |core, now| page(core, now, from)).await?;
        for word in words {
            *seen.trials.entry(word).or_default() += 1;
        }
        match end {
            Some(end) => last = Some(end),
            None => break,
        }
    }
    seen.logs_bytes = service.logs.bytes();
    seen.watchers = service.live.receiver_count() as u64;
    let store = Arc::clone(&service.store);
    let bytes = tokio::task::spawn_blocking(move || store.disk_bytes()).await;
    seen.store_bytes = bytes.map_err(super::internal)?.map_err(super::internal)?;
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    seen.cpu = used.tv_sec as f64 + used.tv_nsec as f64 * 1e-9;
    seen.resident_bytes = resident_bytes();
    Ok(seen)
}

fn whole(core: &Core, now: Timestamp) -> Seen {
    let mut seen = Seen::default();
    for experiment in core.experiments().values() {
        *seen.experiments.entry(experiment.state.word()).or_default() += 1;
        if experiment.state == ExperimentState::Running {
            // A planned range waits as its drawn trials do.
            *seen.trials.entry("waiting").or_default() += experiment.undrawn;
        }
    }
    for (id, agent) in core.agents() {
        add(&mut seen, core, now, id, agent);
    }
    seen
}

fn add(seen: &mut Seen, core: &Core, now: Timestamp, id: &AgentId, agent: &Agent) {
    seen.leases += agent.leases.len() as u64;
    if seen.silence.len() < AGENTS_SHOWN_MAX {
        seen.silence.push((id.clone(), now.since_ms(agent.heard_at) as f64 / 1_000.0));
    }
    if !agent.connected {
        seen.agents_away += 1;
        return;
    }
    let free = core.free(agent);
    seen.agents_connected += 1;
    seen.cpus += u64::from(agent.capacity.cpus);
    seen.cpus_free += free.cpus.len() as u64;
    seen.gpus += agent.capacity.offered().count() as u64;
    seen.gpus_withdrawn += agent.capacity.withdrawn.len() as u64;
    seen.gpus_free += free.whole_gpus() as u64;
}

/// The states of the next trials behind `from`, and the last of them unless it is the end.
fn page(
    core: &Core,
    now: Timestamp,
    from: Option<TrialId>,
) -> (Vec<&'static str>, Option<TrialId>) {
    let from = from.map_or(Bound::Unbounded, Bound::Excluded);
    let page = || core.trials().range((from.clone(), Bound::Unbounded)).take(PAGE_TRIALS);
    let words: Vec<_> = page().map(|(_, trial)| core.trial_word(trial, now)).collect();
    let last = page().last().map(|(id, _)| id.clone());
    let end = last.filter(|_| words.len() == PAGE_TRIALS);
    (words, end)
}

/// Of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}
