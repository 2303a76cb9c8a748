//! The whole agent, as a process, against a coordinator that the test speaks for.
#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

#[path = "support/coordinator.rs"]
mod coordinator;
mod support;

use coordinator::{Lab, TOKEN, blob, lease};
use proto::train::numerics_label;
use proto::wire::{AttemptRef, Gang, Lease, METRIC_BATCH_MAX, Report};
use proto::{CommandSpec, FailureClass, Outcome, Resources, Retries, Runner, TrialSpec};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::{AGENT, assert_dies, eventually, pid_in};
use tempfile::TempDir;
use tonic::Status;

const TTL_MS: u64 = 20_000;

#[tokio::test]
async fn a_trial_gets_its_files_and_gives_metrics_log_and_outcome() {
    let script =
        b"echo hello; echo '{\"metric\": \"loss\", \"step\": 4, \"value\": 1.5}' >&3".to_vec();
    let mut lab = Lab::start(TTL_MS, vec![script.clone()]).await;
    let _agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    assert_eq!((session.hello.cpus, session.hello.gpus.len()), (2, 0));
    let mut spec = shell("sh script.sh");
    command(&mut spec).files.insert("script.sh".into(), blob(&script));
    session.assign(vec![lease(&spec, 3)]).await;
    let outcome = session.outcome().await;
    let metrics = BTreeMap::from([("loss".to_owned(), 1.5)]);
    assert_eq!(outcome, Outcome::Completed { metrics, checkpoint: None });
    let [point] = &session.metrics[..] else { panic!("{:?}", session.metrics) };
    assert_eq!((point.attempt, point.step, point.value), (3, 4, 1.5));
    let log: Vec<u8> = session.log.values().flatten().copied().collect();
    assert_eq!(log, b"hello\n");
    let report = session.report_with(|report| report.running.is_empty()).await;
    let settled = session.report_with(|later| later.sequence > report.sequence).await;
    assert_eq!((settled.ended.len(), settled.assignment_version), (0, 1));
}

#[tokio::test]
async fn a_trial_without_a_process_completes_at_once() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &["--label", "zone=a", "--extra", "licence=2"]);
    let mut session = lab.session().await;
    assert_eq!(
        session.hello.labels,
        HashMap::from([("zone".to_owned(), "a".to_owned()), numerics_label()])
    );
    assert_eq!(session.hello.extras, HashMap::from([("licence".to_owned(), 2)]));
    let noop = |seed| TrialSpec { runner: Runner::Noop, seed, ..shell("") };
    let leases = (0..100).map(|seed| Lease { cpus: Vec::new(), ..lease(&noop(seed), 1) });
    session.assign(leases.collect()).await;
    let report = session.report_with(|report| !report.ended.is_empty()).await;
    assert_eq!(report.ended.len(), 100, "all in one report");
    let outcome: Outcome = serde_json::from_str(&report.ended[0].outcome_json).unwrap();
    assert_eq!(outcome, Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None });
    let left = std::fs::read_dir(agent.path("data/trials")).unwrap().count();
    assert_eq!(left, 0, "no folders");
}

#[tokio::test]
async fn a_change_of_the_assignment_starts_and_stops_what_it_names() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let sleeper =
        |name: &str| shell(&format!("echo $$ > {}; exec sleep 1000", agent.path(name).display()));
    let (first, second) = (sleeper("first"), sleeper("second"));
    session.assign(vec![lease(&first, 1)]).await;
    let child = pid_in(&agent.path("first"));
    session.report_with(|report| report.assignment_version == 1).await;
    let dropped = vec![AttemptRef { trial: first.id().to_string(), attempt: 1, rank: 0 }];
    let leases = vec![Lease { cpus: vec![1], ..lease(&second, 1) }];
    session.change(leases, dropped).await;
    assert_dies(child);
    pid_in(&agent.path("second"));
}

#[tokio::test]
async fn members_of_a_gang_find_each_other_and_keep_apart() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let _agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let spec = shell(
        "[ \"$MASTER_ADDR:$MASTER_PORT $WORLD_SIZE $LOCAL_RANK\" = 'h:29500 2 0' ] || exit 3; \
         echo \"rank $RANK\"; echo '{\"metric\": \"m\", \"step\": 1, \"value\": '$RANK'}' >&3; \
         touch \"$BRINE_OUTPUT_FOLDER/x\"; ls \"$BRINE_OUTPUT_FOLDER\" | wc -l",
    );
    let member = |rank: u32| Lease {
        cpus: vec![rank],
        gang: Some(Gang { rank, world_size: 2, master_addr: "h".into(), master_port: 29_500 }),
        ..lease(&spec, 1)
    };
    session.assign(vec![member(0), member(1)]).await;
    let mut outcomes = BTreeMap::new();
    while outcomes.len() < 2 {
        let report = session.report_with(|report| !report.ended.is_empty()).await;
        session.reply(report.sequence).await;
        outcomes.extend(report.ended.into_iter().map(|ended| (ended.rank, ended.outcome_json)));
    }
    for (rank, outcome) in outcomes {
        let outcome: Outcome = serde_json::from_str(&outcome).unwrap();
        let metrics = BTreeMap::from([("m".to_owned(), f64::from(rank))]);
        assert_eq!(outcome, Outcome::Completed { metrics, checkpoint: None });
    }
    let log = |rank| -> Vec<u8> {
        let own = session.log.iter().filter(|((of, _), _)| *of == rank);
        own.flat_map(|(_, text)| text.clone()).collect()
    };
    assert_eq!([log(0), log(1)], [b"rank 0\n1\n", b"rank 1\n1\n"]);
    let metrics: Vec<_> = session.metrics.iter().map(|point| (point.rank, point.value)).collect();
    assert_eq!(BTreeMap::from_iter(metrics.clone()), BTreeMap::from([(0, 0.0), (1, 1.0)]));
    assert_eq!(metrics.len(), 2, "{metrics:?}");
}

#[tokio::test]
async fn a_preempted_trial_is_given_back() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let path = agent.path("child");
    let spec = shell(&format!("echo $$ > {}; exec sleep 1000", path.display()));
    session.assign(vec![lease(&spec, 1)]).await;
    pid_in(&path);
    session.assign(vec![Lease { preempted: true, ..lease(&spec, 1) }]).await;
    check_failed(&session.outcome().await, FailureClass::Cancelled, "higher priority");
}

#[tokio::test]
async fn an_agent_waits_while_its_namesake_is_alive() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    lab.refuse(Status::already_exists("an agent of this name was heard 1 s ago"));
    let mut agent = Agent::start(&lab, &[]);
    eventually("two refusals", || (lab.refused() >= 2).then_some(()));
    assert!(agent.process.try_wait().unwrap().is_none(), "it did not give up");
    lab.accept();
    let mut session = lab.session().await;
    assert_ne!(session.hello.instance, 0);
    session.report().await;
}

#[tokio::test]
async fn a_file_that_the_coordinator_lacks_is_an_infrastructure_failure() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let _agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let mut spec = shell("true");
    command(&mut spec).files.insert("x".into(), blob(b"lost"));
    session.assign(vec![lease(&spec, 1)]).await;
    check_failed(&session.outcome().await, FailureClass::Infrastructure, "no such file");
}

#[tokio::test]
async fn a_trial_outlives_the_loss_of_its_coordinator() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let go = agent.path("go");
    let spec = shell(&format!("while [ ! -e {} ]; do sleep 0.02; done", go.display()));
    session.assign(vec![lease(&spec, 1)]).await;
    session.report_with(started).await;
    drop(session);
    let address = lab.stop();
    let mut lab = Lab::start_at(address, TTL_MS, Vec::new()).await;
    let mut session = lab.session().await;
    assert_eq!(session.hello.running.len(), 1, "the hello says what is still held");
    session.assign(vec![lease(&spec, 1)]).await;
    session.report_with(started).await;
    std::fs::write(go, "").unwrap();
    assert_eq!(session.outcome().await.word(), "completed");
}

#[tokio::test]
async fn a_trial_whose_process_is_killed_is_an_infrastructure_failure() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    // The second process leaves the group, as torchrun's do, and must be found all the same.
    let child = agent.path("child");
    let script = format!(
        "echo $PPID > {0}.parent; setsid sh -c 'echo $$ > {0}; exec sleep 1000'",
        child.display()
    );
    session.assign(vec![lease(&shell(&script), 1)]).await;
    let runaway = pid_in(&child);
    signal(pid_in(&agent.path("child.parent")), Signal::KILL);
    check_failed(&session.outcome().await, FailureClass::Infrastructure, "killed by signal 9");
    assert_dies(runaway);
    session.assign(vec![lease(&shell("true"), 2)]).await;
    assert_eq!(session.outcome().await.word(), "completed", "there is a new keeper");
}

#[tokio::test]
async fn a_frozen_keeper_is_ended_with_its_programs() {
    let mut lab = Lab::start(2_000, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let path = agent.path("child");
    let script = format!("echo $PPID > {0}.parent; echo $$ > {0}; exec sleep 1000", path.display());
    session.assign(vec![lease(&shell(&script), 1)]).await;
    let child = pid_in(&path);
    signal(pid_in(&agent.path("child.parent")), Signal::STOP);
    // No report is answered, so the lease passes, and the kill after it is not obeyed.
    let report = loop {
        let report = session.report().await;
        if !report.ended.is_empty() {
            break report;
        }
    };
    let outcome: Outcome = serde_json::from_str(&report.ended[0].outcome_json).unwrap();
    check_failed(&outcome, FailureClass::Cancelled, "lost contact");
    assert_dies(child);
}

#[tokio::test]
async fn what_the_coordinator_no_longer_wants_is_stopped() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let child = agent.path("child");
    let script = format!("echo $$ > {}; exec sleep 1000", child.display());
    session.assign(vec![lease(&shell(&script), 1)]).await;
    let child = pid_in(&child);
    session.assign(Vec::new()).await;
    session.report_with(|report| report.running.is_empty() && report.assignment_version == 2).await;
    assert_dies(child);
}

#[tokio::test]
async fn the_death_of_the_agent_ends_its_trials() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let mut agent = Agent::start(&lab, &[]);
    let child = run_sleeper(&mut lab, &agent).await;
    agent.process.kill().unwrap();
    assert_dies(child);
}

#[tokio::test]
async fn a_frozen_agent_loses_its_trials_at_their_leases_end() {
    let mut lab = Lab::start(2_000, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let child = run_sleeper(&mut lab, &agent).await;
    signal(agent.pid(), Signal::STOP);
    assert_dies(child);
}

#[tokio::test]
async fn a_coordinator_that_falls_silent_loses_the_trial_at_the_leases_end() {
    let mut lab = Lab::start(2_000, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let path = agent.path("child");
    let script = format!("echo $$ > {}; exec sleep 1000", path.display());
    session.assign(vec![lease(&shell(&script), 1)]).await;
    let child = pid_in(&path);
    let report = loop {
        // No report is answered, so no lease is renewed.
        let report = session.report().await;
        if !report.ended.is_empty() {
            break report;
        }
    };
    let outcome: Outcome = serde_json::from_str(&report.ended[0].outcome_json).unwrap();
    check_failed(&outcome, FailureClass::Cancelled, "lost contact");
    assert_dies(child);
}

// Goal: a program that reports without end holds up no report: few points go before each.
#[tokio::test]
async fn a_flood_of_metrics_holds_up_no_report() {
    let mut lab = Lab::start(10_000, Vec::new()).await;
    let _agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let flood = r#"yes '{"metric":"loss","step":1,"value":2}' | head -n 300000 >&"#;
    session.assign(vec![lease(&shell(&format!("{flood}$BRINE_METRICS_FD")), 1)]).await;
    let mut has_ended = false;
    while !has_ended {
        let before = session.metrics.len();
        let report = session.report().await;
        assert!(session.metrics.len() - before <= 4 * METRIC_BATCH_MAX);
        session.reply(report.sequence).await;
        has_ended = !report.ended.is_empty();
    }
}

#[tokio::test]
async fn a_terminated_agent_stops_its_trials_tells_so_and_ends_well() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let mut agent = Agent::start(&lab, &[]);
    let mut session = lab.session().await;
    let path = agent.path("child");
    let script = format!("echo $$ > {}; exec sleep 1000", path.display());
    session.assign(vec![lease(&shell(&script), 1)]).await;
    pid_in(&path);
    signal(agent.pid(), Signal::TERM);
    let report = session.report_with(|report| !report.ended.is_empty()).await;
    assert!(report.leaving);
    let outcome: Outcome = serde_json::from_str(&report.ended[0].outcome_json).unwrap();
    check_failed(&outcome, FailureClass::Cancelled, "asked to end");
    session.reply(report.sequence).await;
    assert_eq!(agent.exit_code(), Some(0));
}

#[tokio::test]
async fn an_agent_ends_with_its_standard_input() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let mut agent = Agent::start(&lab, &["--exit-with-stdin"]);
    let mut session = lab.session().await;
    session.report().await;
    drop(agent.process.stdin.take());
    session.report_with(|report| report.leaving).await;
    assert_eq!(agent.exit_code(), Some(0));
}

#[tokio::test]
async fn an_agent_whose_parent_and_coordinator_die_together_ends_at_once() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let mut agent = Agent::start(&lab, &["--exit-with-stdin"]);
    let mut session = lab.session().await;
    let path = agent.path("child");
    // It would use its whole grace if it were asked.
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 1; done", path.display());
    session.assign(vec![lease(&shell(&script), 1)]).await;
    let child = pid_in(&path);
    drop(session);
    lab.stop();
    drop(agent.process.stdin.take());
    assert_eq!(agent.exit_code(), Some(0));
    assert_dies(child);
}

#[tokio::test]
async fn a_wrong_token_and_a_used_data_folder_are_clear_errors() {
    let mut lab = Lab::start(TTL_MS, Vec::new()).await;
    let agent = Agent::start(&lab, &[]);
    lab.session().await;
    let second = agent.command(lab.address).output().unwrap();
    check_error(&second, "is in use by another agent");
    let other = TempDir::new().unwrap();
    let token = other.path().join("token");
    std::fs::write(&token, "wrong\n").unwrap();
    let wrong = arguments(lab.address, other.path(), &token).output().unwrap();
    check_error(&wrong, "the coordinator refused this agent: wrong token");
}

#[test]
fn bad_settings_are_clear_errors() {
    let folder = TempDir::new().unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let token = folder.path().join("token");
    let run =
        |extra: &[&str]| arguments(address, folder.path(), &token).args(extra).output().unwrap();
    check_error(&run(&[]), "cannot read the token file");
    std::fs::write(&token, " \n").unwrap();
    check_error(&run(&[]), "is empty");
    std::fs::write(&token, "a\nb").unwrap();
    check_error(&run(&[]), "token is not one line");
    std::fs::write(&token, TOKEN).unwrap();
    check_error(&run(&["--gpus", "4000"]), "there is no GPU 4000");
    let usage = run(&["--cpus", "0"]);
    assert_eq!(usage.status.code(), Some(2));
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data"), "a file").unwrap();
    check_error(&run(&[]), "cannot use the folder");
}

#[test]
fn doctor_finds_libtorch_without_being_told_where_it_is() {
    let mut command = Command::new(AGENT);
    let output = command.args(["doctor", "--output", "json"]).env_remove("LD_LIBRARY_PATH");
    let output = output.env("BRINE_COORDINATOR", "http://127.0.0.1:1").output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = findings["checks"].as_array().unwrap();
    let torch = checks.iter().find(|check| check["name"] == "libtorch").unwrap();
    assert_eq!(torch["state"], "works");
    assert!(torch["found"].as_str().unwrap().starts_with("2.11"), "{torch}");
}

#[track_caller]
fn check_failed(outcome: &Outcome, expected: FailureClass, words: &str) {
    let Outcome::Failed { class, message } = outcome else { panic!("{outcome:?}") };
    assert_eq!(*class, expected, "{message}");
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn check_error(output: &Output, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: ") && text.contains(words), "{text}");
}

fn started(report: &Report) -> bool {
    report.running.iter().any(|running| running.started)
}

/// Starts a trial that never ends; answers the number of its process.
async fn run_sleeper(lab: &mut Lab, agent: &Agent) -> i32 {
    let mut session = lab.session().await;
    let path = agent.path("child");
    let script = format!("echo $$ > {}; exec sleep 1000", path.display());
    session.assign(vec![lease(&shell(&script), 1)]).await;
    session.report_with(started).await;
    pid_in(&path)
}

fn shell(script: &str) -> TrialSpec {
    TrialSpec {
        runner: Runner::Command(CommandSpec {
            arguments: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            environment: BTreeMap::new(),
            working_folder: None,
            files: BTreeMap::new(),
        }),
        parameters: BTreeMap::new(),
        seed: 7,
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: Some(1_000),
        hang: None,
        placement: proto::Placement::default(),
    }
}

fn command(spec: &mut TrialSpec) -> &mut CommandSpec {
    match &mut spec.runner {
        Runner::Command(command) => command,
        Runner::Train(_) | Runner::Grpo(_) | Runner::Noop => {
            unreachable!("these tests run commands")
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn arguments(address: SocketAddr, folder: &Path, token: &Path) -> Command {
    let mut command = Command::new(AGENT);
    command
        .args(["--coordinator", &format!("http://{address}"), "--id", "a", "--cpus", "2"])
        .arg("--token-file")
        .arg(token)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .stdin(Stdio::piped());
    command
}

/// A running agent with a folder of its own.
struct Agent {
    folder: TempDir,
    process: Child,
}

impl Agent {
    fn start(lab: &Lab, extra: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let process = arguments(lab.address, folder.path(), &token)
            .args(["--gpus", "none"])
            .args(extra)
            .spawn()
            .unwrap();
        Self { folder, process }
    }

    fn command(&self, address: SocketAddr) -> Command {
        arguments(address, self.folder.path(), &self.path("token"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    fn exit_code(&mut self) -> Option<i32> {
        let status = eventually("the agent's end", || self.process.try_wait().unwrap());
        status.code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        self.process.wait().unwrap();
    }
}
