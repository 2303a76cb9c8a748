//! From the start of a trial's process to its first step.

use crate::figures::spread;
use crate::peer::Peer;
use crate::training::{Training, large, narrow};
use crate::trial;
use agent_keeper::order::{Metric, TrialRecord};
use brine_benches::median;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

const STARTS: usize = 15;
const THEIR_STARTS: usize = 5;

/// Milliseconds from the start of the process.
struct Took {
    /// To the record that the order was read: the program is loaded and linked.
    loaded: f64,
    /// To the loss of the first step.
    stepped: f64,
}

pub(crate) fn start(python: Option<&Path>) {
    println!("start: from the process's start to the record of its first loss, of {STARTS}");
    for (name, training) in [
        ("16 wide, 1 layer, batch 4", Training::new(narrow(16, 1), 4, 1, 0, 100)),
        ("384 wide, 6 layers, batch 1", Training::new(large(), 1, 1, 0, 100)),
    ] {
        let took: Vec<Took> = (0..STARTS).map(|_| begin(&training)).collect();
        let loaded: Vec<f64> = took.iter().map(|took| took.loaded).collect();
        let stepped: Vec<f64> = took.iter().map(|took| took.stepped).collect();
        let content = fs::read(&training.text).unwrap();
        let begun = Instant::now();
        let hash = blake3::hash(&content);
        let hashing = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(hash.to_hex().as_str(), training.spec.data.text.blob.as_str());
        let theirs = python.map_or_else(String::new, |python| {
            let took: Vec<f64> =
                (0..THEIR_STARTS).map(|_| begin_theirs(python, &training)).collect();
            format!("; beside it Python and PyTorch {} ms", spread(&took, 0))
        });
        println!(
            "  {name}: {} ms, of it {:.0} until it is loaded and has read its order, {hashing:.2} \
             hashing {} bytes of text{theirs}",
            spread(&stepped, 0),
            median(&loaded),
            content.len(),
        );
    }
}

/// Starts a trial and ends it after its first loss.
fn begin(training: &Training) -> Took {
    let (mut loaded, mut stepped) = (None, None);
    trial::run(&training.spec, &training.text, training.threads, &mut |seconds, record| {
        match record {
            TrialRecord::Started => loaded = Some(seconds * 1e3),
            TrialRecord::Metric(Metric { metric, step: 0, .. }) if metric == "loss" => {
                stepped = Some(seconds * 1e3);
                return ControlFlow::Break(());
            }
            TrialRecord::Metric(_) | TrialRecord::Checkpoint(_) => {}
            TrialRecord::Ended(end) => panic!("it ended with {end:?}"),
        }
        ControlFlow::Continue(())
    });
    Took { loaded: loaded.unwrap(), stepped: stepped.unwrap() }
}

/// Milliseconds from the start of Python to the end of PyTorch's first step.
fn begin_theirs(python: &Path, training: &Training) -> f64 {
    let mut request = training.request(true);
    request["steps"] = 1.into();
    let begun = Instant::now();
    Peer::start(python, "torch_train.py").ask(&request);
    begun.elapsed().as_secs_f64() * 1e3
}
