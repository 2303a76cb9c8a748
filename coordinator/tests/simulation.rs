//! The control plane under every fault: production cores and journal format on a simulated clock,
//! network and disk. A failing seed prints itself; `brine sim --seed N` replays it.
//!
//! `BRINE_SIM_SEEDS` sets how many seeds are tried, and `BRINE_SIM_FIRST` the first one.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test that says what it saw")]

use coordinator::core::Planted;
use proto::NoticeKind;
use simulation::{Failure, Finished, Settings, World};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of one test run.
const SEEDS: u64 = 300;
/// Steps of each seed before its faults end; what follows comes on top.
const STEPS: u64 = 2_000;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn run(seed: u64, planted: Option<Planted>) -> Result<Finished, Box<Failure>> {
    World::new(Settings { planted, ..Settings::draw(seed, STEPS) }).run()
}

/// Runs the seeds on all cores until `stop` says so of one's end.
fn sweep(
    planted: Option<Planted>,
    stop: impl Fn(&Result<Finished, Box<Failure>>) -> bool + Sync,
) -> Vec<Result<Finished, Box<Failure>>> {
    let first = variable("BRINE_SIM_FIRST", 0);
    let end = first + variable("BRINE_SIM_SEEDS", SEEDS);
    let (next, ends) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let ended = run(seed, planted);
            if stop(&ended) {
                next.store(end, Ordering::Relaxed);
            }
            ends.lock().unwrap().push(ended);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    ends.into_inner().unwrap()
}

#[test]
fn no_law_is_broken_under_any_fault() {
    let ends = sweep(None, |ended| ended.is_err());
    let mut total = (0, 0, 0);
    let mut notices = BTreeMap::<&str, u64>::new();
    for ended in ends {
        match ended {
            Ok(finished) => {
                total.0 += finished.steps;
                total.1 += finished.ended.values().sum::<u64>();
                total.2 += u64::from(finished.refused);
                for (kind, count) in finished.notices {
                    *notices.entry(kind).or_default() += count;
                }
            }
            Err(failure) => {
                let told = Settings { log: true, ..Settings::draw(failure.seed, STEPS) };
                let log = World::new(told).run().err().map_or_else(Vec::new, |again| again.log);
                panic!("{failure}\n{}", log.join("\n"));
            }
        }
    }
    println!("{} steps, {} trials ended, {} lying disks refused", total.0, total.1, total.2);
    println!("noticed: {notices:?}");
    assert!(total.1 > 0, "the worlds do nothing");
    for kind in [NoticeKind::Hang, NoticeKind::NotANumber] {
        assert!(notices.contains_key(kind.word()), "nobody noticed: {}", kind.word());
    }
}

#[test]
fn a_seed_repeats_itself_to_the_same_trace() {
    for seed in [1, 2, 3] {
        let (first, second) = (run(seed, None).unwrap(), run(seed, None).unwrap());
        assert_eq!(first, second);
    }
    assert_ne!(run(1, None).unwrap().trace, run(2, None).unwrap().trace);
}

/// That the laws hold means something only if breaking them is noticed.
#[test]
fn every_planted_bug_is_found() {
    for bug in Planted::ALL {
        let ends = sweep(Some(bug), |ended| ended.is_err());
        let found = ends.iter().filter_map(|ended| ended.as_ref().err()).next();
        let found = found.unwrap_or_else(|| panic!("{bug:?} was not found by any seed"));
        println!("{bug:?} after {} seeds: {}", ends.len(), found.law);
    }
}
