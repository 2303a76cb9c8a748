//! The core's own cost per trial, without disk and network: planned, leased, reported, ended.
#![expect(clippy::unwrap_used, reason = "a bench")]

use coordinator::core::{Capacity, Core, Join, Report, Request, Step, Submission};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::{AgentId, Inputs, Outcome, Timestamp};
use std::collections::BTreeMap;

const TRIALS: u64 = 10_000;
const RECIPE: &str = "apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: noops}
spec:
  study:
    sweep:
      noop: {}
      parameters: {i: {range: [0, 10000]}}
      search: grid
";
const NOW: Timestamp = Timestamp(1_000);

/// A core with an agent and an experiment of `TRIALS` noops, none of them leased.
fn submitted() -> Core {
    let mut core = Core::new(5_000);
    let capacity = Capacity { host: "h".into(), cpus: 64, ..Capacity::default() };
    let agent = AgentId::new("a").unwrap();
    let running = Vec::new();
    let join = Join { agent, instance: 1, number: 1, session: 1, capacity, running };
    core.turn(NOW, 0, vec![(0, Request::Join(join))]);
    core
}

/// Submits and runs every trial; returns the number of records that it took.
fn run(mut core: Core) -> u64 {
    let agent = AgentId::new("a").unwrap();
    let recipe = RECIPE.to_owned();
    let (inputs, user) = (Inputs::default(), String::new());
    let submission = Submission { recipe, inputs, retry_failed: false, user };
    let mut requests = vec![(0, Request::Submit(submission))];
    let (mut last, mut sequence) = (0, 0);
    loop {
        let mut ended = Vec::new();
        let mut assignment_version = 0;
        for step in core.turn(NOW, last, requests) {
            match step {
                Step::Persist(records) => last = records.last().unwrap().sequence,
                Step::Assign(assignments) => {
                    for (_, wanted) in assignments {
                        assignment_version = wanted.version;
                        ended.extend(
                            wanted.leases.into_iter().map(|lease| (lease.key, completed())),
                        );
                    }
                }
                Step::Acknowledge(_) | Step::Publish(_) => {}
            }
        }
        if ended.is_empty() {
            return last;
        }
        sequence += 1;
        let report = Report {
            agent: agent.clone(),
            session: 1,
            sequence,
            running: Vec::new(),
            ended,
            checkpoints: Vec::new(),
            notices: Vec::new(),
            assignment_version,
            leaving: false,
            withdrawn: BTreeMap::new(),
        };
        requests = vec![(1, Request::Report(report))];
    }
}

fn completed() -> Outcome {
    Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(TRIALS)).sample_size(10);
    group.bench_function("whole_life_per_trial", |bencher| {
        bencher.iter_batched(submitted, run, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
