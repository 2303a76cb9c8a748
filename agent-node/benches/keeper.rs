//! What a program costs beyond its own start: the keeper runs `/bin/true` 10,000 times, two at a
//! time, beside `xargs -P2` in the same sitting. Prints both and their ratio; asserts no time.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use agent_core::{Moment, TrialEnd};
use agent_keeper::order::{Folders, Order};
use agent_keeper::say::{Ask, Say};
use proto::{
    AgentId, Attempt, AttemptKey, CommandSpec, Devices, Outcome, Placement, Resources, Retries,
    Runner, TrialId, TrialSpec,
};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Instant;

const PROGRAMS: u64 = 10_000;
const AT_ONCE: u64 = 2;
const ROUNDS: usize = 5;

fn main() {
    let (mut keeper, mut xargs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        xargs.push(by_xargs());
        keeper.push(by_keeper());
    }
    let (keeper, xargs) = (median(keeper), median(xargs));
    println!("{PROGRAMS} programs, {AT_ONCE} at a time, median of {ROUNDS}:");
    println!("  xargs  {xargs:.3} s\n  keeper {keeper:.3} s\n  ratio  {:.3}", keeper / xargs);
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn by_xargs() -> f64 {
    let start = Instant::now();
    let script = format!("seq {PROGRAMS} | xargs -P{AT_ONCE} -n1 /bin/true");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    start.elapsed().as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn by_keeper() -> f64 {
    let folder = tempfile::TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_brine-agent-keeper"))
        .arg(folder.path().join("keeper"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut asks = child.stdin.take().unwrap();
    let mut says = BufReader::new(child.stdout.take().unwrap());
    let start = Instant::now();
    for number in 0..AT_ONCE {
        ask(&mut asks, folder.path(), number);
    }
    let (mut ended, mut line) = (0, String::new());
    while ended < PROGRAMS {
        line.clear();
        says.read_line(&mut line).unwrap();
        let Say::Exited { end, kept, .. } = serde_json::from_str(&line).unwrap() else { continue };
        let outcome = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
        assert_eq!((end, kept), (Some(TrialEnd::Outcome(outcome)), None));
        ended += 1;
        if ended + AT_ONCE <= PROGRAMS {
            ask(&mut asks, folder.path(), ended + AT_ONCE - 1);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(asks);
    child.wait().unwrap();
    seconds
}

fn ask(asks: &mut ChildStdin, folder: &Path, number: u64) {
    let trial = TrialId::new(format!("{number:016x}")).unwrap();
    let order = Order {
        folders: Folders {
            blobs: folder.join("blobs"),
            attempt: folder.join("trials").join(format!("{trial}-1")),
            checkpoints: folder.join("checkpoints"),
            program_checkpoints: folder.join("programs").join(trial.as_str()),
        },
        key: AttemptKey { trial, attempt: Attempt(1), rank: 0 },
        agent: AgentId::new("a").unwrap(),
        spec: TrialSpec {
            runner: Runner::Command(CommandSpec {
                arguments: vec!["/bin/true".into()],
                environment: BTreeMap::new(),
                working_folder: None,
                files: BTreeMap::new(),
            }),
            parameters: BTreeMap::new(),
            seed: number,
            resources: Resources::default(),
            retries: Retries::default(),
            time_limit_ms: None,
            checkpoint_every_ms: Some(60_000),
            placement: Placement::default(),
            hang: None,
        },
        devices: Devices { cpus: vec![0], ..Devices::default() },
        gang: None,
        mtbf_ms: 0,
        lease_until: Moment(u64::MAX),
        resume: Vec::new(),
        is_prepared: false,
    };
    let mut line = serde_json::to_vec(&Ask::Start(Box::new(order))).unwrap();
    line.push(b'\n');
    asks.write_all(&line).unwrap();
}
