//! A large cluster, and many people who look at it.

use crate::crowd::{Crowd, attend};
use crate::plane::{Client, Plane, Watch, cpu_seconds, resident_mib, submit};
use crate::{noops, programs};
use proto::Event;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const AGENTS: usize = 2_000;
const CPUS: u32 = 8;
const TRIALS: u64 = 150_000;
/// A trial takes one to two times this.
const TRIAL_MS: u64 = 4_000;
/// Pause between two calls of the one who asks.
const ASK_PERIOD: Duration = Duration::from_millis(40);

const WATCHERS: usize = 1_000;
const WATCHED_CPUS: u32 = 30;
const WATCHED_TRIALS: u64 = 300;
const WATCHED_TRIAL_MS: u64 = 1_000;

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

/// 150,000 trials on 2,000 agents: how long a control call takes meanwhile.
pub(crate) async fn agents() {
    let plane = Plane::new();
    let mut client = plane.client().await;
    let crowd = Arc::new(Crowd::default());
    for index in 0..AGENTS {
        let name = format!("agent-{index}");
        tokio::spawn(attend(plane.client().await, name, CPUS, TRIAL_MS, Arc::clone(&crowd)));
    }
    plane.joined(&mut client, AGENTS).await;
    let cpu = cpu_seconds(plane.coordinator_pid());
    let begun = Instant::now();
    submit(&mut client, &programs("cluster", TRIALS)).await;
    let mut taken: [Vec<f64>; 3] = Default::default();
    for call in 0_u64.. {
        if crowd.settled.load(Ordering::Relaxed) >= TRIALS {
            break;
        }
        let kind = (call % 3) as usize;
        let newest = crowd.newest.lock().unwrap().clone();
        let asked = Instant::now();
        ask(&mut client, kind, call, newest).await;
        taken[kind].push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(ASK_PERIOD).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds(plane.coordinator_pid()) - cpu;
    println!(
        "{TRIALS} trials on {AGENTS} agents of {CPUS} CPU slots: {seconds:.1} s, {:.0} trials/s, \
         {:.0} % of a core, {:.0} MiB",
        TRIALS as f64 / seconds,
        100.0 * cpu / seconds,
        resident_mib(plane.coordinator_pid()),
    );
    for (name, mut taken) in
        ["durable submit", "list experiments", "explain a trial"].iter().zip(taken)
    {
        taken.sort_by(f64::total_cmp);
        let (p50, p99) = (at(&taken, 0.5), at(&taken, 0.99));
        println!("  {name}: p50 {p50:.2} ms, p99 {p99:.2} ms, of {}", taken.len());
    }
}

async fn ask(client: &mut Client, kind: usize, number: u64, newest: String) {
    match kind {
        0 => {
            submit(client, &noops(&format!("one-{number}"), number, number + 1)).await;
        }
        1 => {
            client.experiments(proto::wire::ExperimentsRequest {}).await.unwrap();
        }
        // Before the first trial has begun there is none to ask for.
        _ if newest.is_empty() => {}
        _ => {
            let request = proto::wire::ExplainRequest { trial: newest };
            client.explain(request).await.unwrap();
        }
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// 1,000 watchers of one experiment, each with a connection of its own: how long after a record's
/// time of decision each has it.
pub(crate) async fn watchers() {
    let plane = Plane::new();
    let mut client = plane.client().await;
    let crowd = Arc::new(Crowd::default());
    let agent = attend(
        plane.client().await,
        "agent".into(),
        WATCHED_CPUS,
        WATCHED_TRIAL_MS,
        Arc::clone(&crowd),
    );
    // Nothing waits for it before the watchers are there.
    let experiment = submit(&mut client, &programs("watched", WATCHED_TRIALS)).await;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watch = Watch::new(&mut plane.client().await, &experiment, 1).await;
        watchers.push(tokio::spawn(async move {
            let mut lags = Vec::new();
            loop {
                let record = watch.next().await;
                if matches!(record.event, Event::ExperimentEnded { .. }) {
                    return lags;
                }
                if matches!(record.event, Event::TrialEnded { .. }) {
                    lags.push(wall_ms().saturating_sub(record.at.0) as f64);
                }
            }
        }));
    }
    tokio::spawn(agent);
    let begun = Instant::now();
    let mut lags = Vec::new();
    for watcher in watchers {
        lags.extend(watcher.await.unwrap());
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(lags.len(), WATCHERS * WATCHED_TRIALS as usize);
    lags.sort_by(f64::total_cmp);
    println!(
        "{WATCHERS} watchers of {:.0} ends/s: lag p50 {:.0} ms, p99 {:.0} ms, largest {:.0} ms",
        WATCHED_TRIALS as f64 / seconds,
        at(&lags, 0.5),
        at(&lags, 0.99),
        at(&lags, 1.0),
    );
}
