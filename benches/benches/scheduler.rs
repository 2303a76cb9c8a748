//! The core's own cost per trial, without disk and network: planned, leased, reported, ended.
#![expect(clippy::unwrap_used, reason = "a bench")]

use coordinator::core::state::Capacity;
use coordinator::core::{Core, Heard, Report};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::{
    AgentId, Attempt, CommandSpec, Event, ExperimentId, Inputs, Outcome, Resources, Retries,
    Runner, Timestamp, TrialId, TrialSpec,
};
use std::collections::BTreeMap;

const TRIALS: u64 = 10_000;
const NOW: Timestamp = Timestamp(1_000);

fn spec(seed: u64) -> TrialSpec {
    TrialSpec {
        runner: Runner::Command(CommandSpec {
            arguments: vec!["true".into()],
            environment: BTreeMap::new(),
            working_folder: None,
            files: BTreeMap::new(),
        }),
        parameters: BTreeMap::new(),
        seed,
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: 60_000,
    }
}

fn planned() -> Core {
    let mut core = Core::new(5_000);
    let agent = AgentId::new("a").unwrap();
    let capacity = Capacity {
        host: "h".into(),
        cpus: 64,
        gpus: vec![],
        memory_bytes: 0,
        code_version: "1".into(),
    };
    core.hear(NOW, &Heard::Joined { agent, session: 1, capacity, running: vec![] });
    let experiment = ExperimentId::new("e").unwrap();
    let inputs = Inputs::default();
    let submitted =
        Event::ExperimentSubmitted { experiment: experiment.clone(), recipe: "-".into(), inputs };
    let trials = (0..TRIALS).map(spec).collect();
    let planned = Event::TrialsPlanned { experiment, reason: "bench".into(), trials };
    core.apply(NOW, &submitted);
    core.apply(NOW, &planned);
    core
}

/// Runs every trial; returns the events that it took.
fn run(mut core: Core) -> usize {
    let agent = AgentId::new("a").unwrap();
    let mut events_total = 0;
    loop {
        let granted = core.settle(NOW);
        if granted.is_empty() {
            return events_total;
        }
        let mut ended: Vec<(TrialId, Attempt, Outcome)> = Vec::new();
        for event in &granted {
            core.apply(NOW, event);
            if let Event::LeaseGranted { trial, attempt, .. } = event {
                let outcome = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
                ended.push((trial.clone(), *attempt, outcome));
            }
        }
        let (running, checkpoints) = (Vec::new(), Vec::new());
        let report = Report { agent: agent.clone(), session: 1, running, ended, checkpoints };
        let (events, _) = core.decide_report(NOW, &report).unwrap();
        events.iter().for_each(|event| core.apply(NOW, event));
        let assignment_version = u64::MAX;
        let (agent, running) = (agent.clone(), Vec::new());
        core.hear(NOW, &Heard::Report { agent, running, assignment_version, leaving: false });
        events_total += granted.len() + events.len();
    }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(TRIALS)).sample_size(10);
    group.bench_function("decide_and_apply_per_trial", |bencher| {
        bencher.iter_batched(planned, run, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
