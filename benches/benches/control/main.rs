//! The control plane end to end, with real processes: latency, floods, a million trials, recovery.
//! Every row is the median of several runs; the row beside it, where there is one, is from the same
//! sitting.
//!
//!     cargo build --release && cargo bench -p brine-benches --bench control [-- ROW ...]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod cluster;
mod crowd;
mod plane;

use brine_benches::{LIBRARY_PATH, median};
use plane::{Plane, Watch, cpu_seconds, resident_mib, submit};
use proto::Event;
use std::process::Command;
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const NOOPS: u64 = 100_000;
const PROGRAMS: u64 = 10_000;
const MILLION: u64 = 1_000_000;

fn noops(name: &str, first: u64, end: u64) -> String {
    format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: {name}}}\nspec:\n  \
         study:\n    sweep:\n      noop: {{}}\n      \
         parameters: {{n: {{range: [{first}, {end}]}}}}\n      search: grid\n"
    )
}

fn programs(name: &str, count: u64) -> String {
    format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: {name}}}\nspec:\n  \
         study:\n    sweep:\n      command: {{arguments: [/bin/true]}}\n      \
         parameters: {{n: {{range: [0, {count}]}}}}\n      search: grid\n      metric: null\n"
    )
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let is_wanted = |row: &str| wanted.is_empty() || wanted.iter().any(|name| name == row);
    runtime.block_on(async {
        if is_wanted("latency") {
            latency().await;
        }
        if is_wanted("noops") {
            noop_flood().await;
        }
        if is_wanted("programs") {
            program_flood().await;
        }
        if is_wanted("million") {
            million().await;
        }
        if is_wanted("agents") {
            cluster::agents().await;
        }
        if is_wanted("watchers") {
            cluster::watchers().await;
        }
    });
}

/// Durable submit to the result of one noop: client, coordinator, agent and back to a watcher.
async fn latency() {
    let mut plane = Plane::new();
    let mut client = plane.client().await;
    plane.start_agent(2);
    plane.joined(&mut client, 1).await;
    let mut watch = Watch::new(&mut client, "", 1).await;
    let mut taken = Vec::new();
    for index in 0..520_u64 {
        let recipe = noops(&format!("one-{index}"), index, index + 1);
        let begun = Instant::now();
        submit(&mut client, &recipe).await;
        while !matches!(watch.next().await.event, Event::TrialEnded { .. }) {}
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The first ones warm the caches.
    let mut taken = taken.split_off(20);
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[(taken.len() as f64 * share) as usize];
    println!(
        "submit to result of one noop: p50 {:.2} ms, p99 {:.2} ms, of {}",
        at(0.5),
        at(0.99),
        taken.len()
    );
}

/// Seconds from the submission to the end, and CPU microseconds of the coordinator per trial.
async fn flood(recipe: &str, count: u64) -> (f64, f64) {
    let mut plane = Plane::new();
    let mut client = plane.client().await;
    plane.start_agent(2);
    plane.joined(&mut client, 1).await;
    let cpu = cpu_seconds(plane.coordinator_pid());
    let begun = Instant::now();
    let experiment = submit(&mut client, recipe).await;
    loop {
        let reply = client.experiments(proto::wire::ExperimentsRequest {}).await.unwrap();
        let experiments = reply.into_inner().experiments;
        let known = experiments.iter().find(|known| known.experiment == experiment).unwrap();
        if known.state != "running" {
            assert_eq!((&*known.state, u64::from(known.ended)), ("complete", count));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds(plane.coordinator_pid()) - cpu;
    (seconds, cpu * 1e6 / count as f64)
}

async fn noop_flood() {
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (seconds, cpu) = flood(&noops("flood", 0, NOOPS), NOOPS).await;
        rates.push(NOOPS as f64 / seconds);
        cpus.push(cpu);
    }
    println!(
        "flood of {NOOPS} in-agent noops: {:.0} trials/s, {:.1} us of the coordinator's CPU each",
        median(&rates),
        median(&cpus)
    );
}

async fn program_flood() {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begun = Instant::now();
        let shell = format!("seq {PROGRAMS} | xargs -P2 -n1 /bin/true");
        Command::new("sh").env_remove(LIBRARY_PATH).args(["-c", &shell]).status().unwrap();
        theirs.push(begun.elapsed().as_secs_f64());
        ours.push(flood(&programs("programs", PROGRAMS), PROGRAMS).await.0);
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    println!(
        "flood of {PROGRAMS} /bin/true, 2 CPU slots: {ours:.2} s, xargs {theirs:.2} s, ratio {:.2}",
        ours / theirs
    );
}

async fn million() {
    let (mut submits, mut recoveries, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut plane = Plane::new();
        let mut client = plane.client().await;
        let begun = Instant::now();
        let experiment = submit(&mut client, &noops("million", 0, MILLION)).await;
        submits.push(begun.elapsed().as_secs_f64() * 1e3);
        memory.push(resident_mib(plane.coordinator_pid()));
        plane.kill_coordinator();
        let begun = Instant::now();
        plane.start_coordinator();
        let mut client = plane.client().await;
        let reply = client.experiments(proto::wire::ExperimentsRequest {}).await.unwrap();
        recoveries.push(begun.elapsed().as_secs_f64() * 1e3);
        let known = &reply.into_inner().experiments[0];
        assert_eq!((&known.experiment, u64::from(known.trials)), (&experiment, MILLION));
    }
    println!(
        "{MILLION} trials: plan and submit {:.1} ms, coordinator's memory {:.0} MiB, kill -9 to \
         serving again {:.0} ms",
        median(&submits),
        median(&memory),
        median(&recoveries)
    );
}
