//! Goal: over real sockets and a real disk, what trials print stays below its limit: the oldest of
//! ended trials go, what runs stays, and whoever asks for a log that is gone hears why.
#![expect(clippy::disallowed_methods, reason = "a test that waits for a disk has a clock")]

use crate::support::{Agent, Client, PATIENCE, TOKEN, client, options};
use coordinator::{Options, Serving, start};
use proto::Inputs;
use proto::wire::agent_message::Message as FromAgent;
use proto::wire::{Lease, LogChunk, LogsRequest, SubmitRequest};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const RECIPE: &str = "
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: talkative}
spec:
  study:
    sweep:
      noop: {}
      parameters: {x: {range: [0, 4]}}
      search: grid
";
/// Nearly three of the logs that the tests write.
const LIMIT: u64 = 120_000;
const LOG_BYTES: usize = 40_000;

async fn served(folder: &Path) -> (Serving, Client, Agent, Vec<Lease>) {
    let limited = Options { log_limit_bytes: LIMIT, ..options(folder) };
    let serving = start(limited).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    let inputs_json = serde_json::to_string(&Inputs::default()).unwrap();
    let recipe = RECIPE.to_owned();
    client.submit(SubmitRequest { recipe, inputs_json, ..<_>::default() }).await.unwrap();
    let mut agent = Agent::say_hello(&mut client, Agent::hello("a", 4)).await.unwrap();
    let leases = agent.assignment().await.leases;
    assert_eq!(leases.len(), 4);
    (serving, client, agent, leases)
}

fn path(folder: &Path, lease: &Lease, end: &str) -> PathBuf {
    folder.join("logs").join(&lease.trial).join(format!("1.{end}"))
}

async fn print(agent: &mut Agent, lease: &Lease, offset: u64, text: Vec<u8>) {
    let trial = lease.trial.clone();
    agent.say(FromAgent::Log(LogChunk { trial, attempt: 1, offset, text, ..<_>::default() })).await;
}

/// The text of a trial's first log, and the limit for which it was removed.
async fn read(client: &mut Client, lease: &Lease) -> (usize, u64) {
    let request = LogsRequest { trial: lease.trial.clone(), attempt: 1, ..<_>::default() };
    let mut stream = client.logs(request).await.unwrap().into_inner();
    let (mut bytes, mut removed) = (0, 0);
    while let Some(chunk) = stream.message().await.unwrap() {
        bytes += chunk.text.len();
        removed = chunk.removed_above_bytes;
    }
    (bytes, removed)
}

async fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < end, "this never became true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets a log be an hour old for each of `hours`.
fn age(path: &Path, hours: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3_600)).unwrap();
}

#[tokio::test]
async fn the_oldest_log_of_an_ended_trial_goes_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (serving, mut client, mut agent, leases) = served(folder).await;
    let [running, old, older, new] = &leases[..] else { panic!("four leases") };
    for (lease, hours) in [(running, 3), (old, 1), (older, 2)] {
        let before = if lease.trial == older.trial { LOG_BYTES / 2 } else { LOG_BYTES };
        print(&mut agent, lease, 0, vec![b'x'; before]).await;
        if lease.trial != running.trial {
            agent.report_end(&lease.trial, 1).await;
        }
        let path = path(folder, lease, "log");
        let is_whole = || fs::metadata(&path).is_ok_and(|about| about.len() == before as u64);
        wait_until("the log is written", is_whole).await;
        age(&path, hours);
    }
    assert_eq!(read(&mut client, older).await, (LOG_BYTES / 2, 0), "all are within the limit");
    print(&mut agent, new, 0, vec![b'x'; LOG_BYTES]).await;
    wait_until("the oldest is gone", || path(folder, older, "removed").is_file()).await;
    assert_eq!(read(&mut client, older).await, (0, LIMIT));
    // Half a log is not enough for the limit.
    wait_until("the next is gone", || path(folder, old, "removed").is_file()).await;
    assert_eq!(read(&mut client, old).await, (0, LIMIT));
    assert_eq!(read(&mut client, running).await, (LOG_BYTES, 0), "although it is the oldest");
    assert_eq!(read(&mut client, new).await, (LOG_BYTES, 0));

    // A piece that comes late, and one of an attempt that nobody granted.
    print(&mut agent, old, LOG_BYTES as u64, b"late".to_vec()).await;
    let trial = new.trial.clone();
    let text = b"made up".to_vec();
    agent.say(FromAgent::Log(LogChunk { trial, attempt: 2, text, ..<_>::default() })).await;
    agent.report_end(&new.trial, 1).await;
    assert_eq!(read(&mut client, old).await, (0, LIMIT));
    let names = |lease: &Lease| {
        let folder = fs::read_dir(folder.join("logs").join(&lease.trial)).unwrap();
        folder.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names(old), ["1.removed"]);
    assert_eq!(names(new), ["1.log"]);

    // What runs may go beyond the limit alone; everything else has gone by then.
    print(&mut agent, running, LOG_BYTES as u64, vec![b'x'; 60_000]).await;
    wait_until("the last is gone", || path(folder, new, "removed").is_file()).await;
    assert_eq!(read(&mut client, running).await, (LOG_BYTES + 60_000, 0));
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_learns_what_is_there_and_ends_a_removal_that_was_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (serving, _client, mut agent, leases) = served(folder).await;
    for lease in &leases[..2] {
        print(&mut agent, lease, 0, vec![b'x'; LOG_BYTES]).await;
        agent.report_end(&lease.trial, 1).await;
    }
    serving.shutdown().await.unwrap();
    let [cut, old, ..] = &leases[..] else { panic!("four leases") };
    fs::rename(path(folder, cut, "log"), path(folder, cut, "removed")).unwrap();
    age(&path(folder, old, "log"), 1);

    // A limit below what is there is kept from the start on, without a single piece.
    let limited = Options { log_limit_bytes: 1_000, ..options(folder) };
    let serving = start(limited).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    wait_until("the removal ends", || {
        fs::metadata(path(folder, cut, "removed")).is_ok_and(|about| about.len() == 0)
    })
    .await;
    wait_until("the other goes too", || path(folder, old, "removed").is_file()).await;
    for lease in [cut, old] {
        assert_eq!(read(&mut client, lease).await, (0, 1_000));
    }
    serving.shutdown().await.unwrap();
}
