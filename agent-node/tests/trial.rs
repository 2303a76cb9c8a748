//! The process of one attempt, with real programs and trainings: what ends it, what it reports,
//! what it leaves. Programs run in a keeper, trainings in a process of their own.
#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

#[path = "support/keeper.rs"]
mod keeper;
mod support;
#[path = "support/trial.rs"]
mod trial;

use agent_core::{Gang, TrialEnd};
use agent_keeper::clock;
use agent_keeper::order::{Control, TrialRecord};
use keeper::KEEPER;
use proto::grpo::{
    Evaluation, POLICY_VOCABULARY, Policy, Problems, Supervised, Variant, VerifierKind,
};
use proto::train::NUMERICS_VERSION;
use proto::{
    AdamW, BlobId, BlobRef, Checkpoint, CommandSpec, DataSpec, FailureClass, GrpoSpec, Mlp,
    ModelSpec, Norm, Optimizer, Outcome, Packing, Positions, Resources, Retries, Runner, Schedule,
    TokenFormat, TrainSpec, TrialSpec, Validation, Value,
};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use support::{AGENT, assert_dies, eventually};
use trial::{Trial, spawn};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_exit_of_a_program_decides_the_class_of_the_outcome() {
    use FailureClass::{Infrastructure, Invalid, Trial};
    check_failure(
        shell("echo out; echo why >&2; exit 3"),
        Trial,
        "exit code 3; it said last: why\nits last lines",
    );
    check_failure(shell("echo out; echo why >&2; exit 3"), Trial, "out\nwhy");
    check_failure(shell("kill -SEGV $$"), Trial, "killed by signal 11");
    check_failure(shell("kill -KILL $$"), Infrastructure, "killed by signal 9");
    check_failure(program(&["/nowhere/program"]), Invalid, "it is not there");
    check_failure(program(&["/etc/passwd"]), Invalid, "it is not executable");
    check_failure(program(&[]), Invalid, "no program");
    let mut elsewhere = shell("true");
    command(&mut elsewhere).working_folder = Some("/nowhere".into());
    check_failure(elsewhere, Invalid, "/nowhere does not exist");
    let mut zero = shell("true");
    command(&mut zero).environment.insert("A".into(), "b\0c".into());
    check_failure(zero, Invalid, "zero byte");
    let mut zero = shell("true");
    zero.parameters.insert("name".into(), Value::Text("b\0c".into()));
    check_failure(zero, Invalid, "a parameter holds a zero byte");
    check_failure(shell(&"x".repeat(1 << 20)), Invalid, "longer than the system allows");
}

#[test]
fn metrics_come_by_descriptor_and_by_the_report_command() {
    let script = format!(
        r#"
        printf '{{"metric": "loss", "step": 1, "value": 2.5}}\n' >&"$BRINE_METRICS_FD"
        printf 'rubbish\n' >&3
        printf '{{"metric": "loss", "step": 2, "value": NaN}}\n{{"metric": "loss", "step": 3, "value": 0.5}}\n' >&3
        exec 3>&-
        brine-agent report --metric accuracy --step 3 --value 0.75
        {AGENT} report --metric gone --step 3 --value -inf
        brine-agent report --metric gone --step 4 --value 7
        "#
    );
    let mut trial = Trial::start(shell(&script));
    let (metrics, end) = trial.finish();
    let steps: Vec<u64> = metrics.iter().map(|(_, step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 3, 3, 4], "{}", trial.log());
    assert!(metrics[1].2.is_nan());
    let expected = BTreeMap::from([
        ("loss".to_owned(), 0.5),
        ("accuracy".to_owned(), 0.75),
        ("gone".to_owned(), 7.0),
    ]);
    assert_eq!(end, Some(completed(expected)));
    assert!(trial.log().contains("a metric line was ignored"), "{}", trial.log());
    assert!(trial.log().contains("rubbish"));
}

#[test]
fn a_metric_that_ends_undefined_makes_the_outcome_diverged() {
    let script = r#"echo '{"metric": "loss", "step": 8, "value": NaN}' >&3"#;
    let (_, end) = Trial::start(shell(script)).finish();
    let diverged = Outcome::Diverged { metric: "loss".into(), step: 8 };
    assert_eq!(end, Some(TrialEnd::Outcome(diverged)));
}

#[test]
fn a_program_that_says_nothing_leaves_nothing() {
    let mut trial = Trial::start(shell("cd \"$BRINE_OUTPUT_FOLDER\" && true"));
    let (_, end) = trial.finish();
    assert_eq!(end, Some(completed(BTreeMap::new())));
    assert!(!trial.order.folders.attempt.exists());
    assert!(!trial.order.folders.program_checkpoints.exists());
}

#[test]
fn what_a_program_leaves_stays_where_it_was() {
    for file in ["$PWD/x", "$BRINE_OUTPUT_FOLDER/x", "$BRINE_CHECKPOINT_FOLDER/x"] {
        let mut trial = Trial::start(shell(&format!("echo {file} > {file}; cat {file}")));
        let (_, end) = trial.finish();
        assert_eq!(end, Some(completed(BTreeMap::new())), "{}", trial.log());
        let path = trial.log();
        assert_eq!(std::fs::read_to_string(path.trim()).unwrap(), path);
        assert!(path.starts_with(trial.folder.path().to_str().unwrap()));
    }
}

#[test]
fn a_program_finds_its_trial_in_its_environment() {
    let mut spec = shell(
        "set -u; echo \"$BRINE_TRIAL $BRINE_ATTEMPT $BRINE_SEED $BRINE_CPUS [$BRINE_GPUS]\" \
         \"$BRINE_PARAM_LEARNING_RATE $GREETING\"; ls -d \"$BRINE_CHECKPOINT_FOLDER\" \
         \"$BRINE_OUTPUT_FOLDER\" > /dev/null; pwd; read line || echo no input",
    );
    spec.parameters.insert("learning-rate".into(), Value::Number(0.5));
    command(&mut spec).environment.insert("GREETING".into(), "hello".into());
    let mut trial = Trial::start(spec);
    let (_, end) = trial.finish();
    let log = trial.log();
    assert_eq!(end, Some(completed(BTreeMap::new())), "{log}");
    assert!(log.starts_with("0123456789abcdef 1 7 1 [] 0.5 hello\n"), "{log}");
    assert!(log.contains("/work\nno input"), "the working folder is the attempt's own: {log}");
}

#[test]
fn a_flood_of_output_neither_blocks_nor_fills_the_disk() {
    let script = "head -c 80000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 1";
    let mut trial = Trial::start(shell(script));
    let (_, end) = trial.finish();
    let Some(TrialEnd::Outcome(Outcome::Failed { message, .. })) = end else { panic!("{end:?}") };
    assert!(message.ends_with("the end"), "{message}");
    let names = ["log.txt", "log.newest.txt", "log.older.txt"];
    let paths = names.map(|name| trial.order.folders.attempt.join(name));
    let bytes: u64 = paths.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < 52_000_000, "the log has {bytes} bytes");
    let newest = std::fs::read(&paths[1]).unwrap();
    assert!(newest.ends_with(b"x\nthe end\n"), "the newest output is kept");
}

#[test]
fn a_stop_gives_the_program_time_and_ends_as_stopped() {
    let script =
        "trap 'echo saved > saved; exit 0' TERM; echo up > up; while :; do sleep 0.02; done";
    let mut trial = Trial::start(shell(script));
    let work = trial.order.folders.attempt.join("work");
    eventually("the program's start", || work.join("up").exists().then_some(()));
    trial.say(&Control::Stop);
    assert_eq!(trial.finish().1, Some(TrialEnd::Stopped));
    assert!(work.join("saved").exists());
}

#[test]
fn a_program_that_ignores_the_stop_at_its_time_limit_is_killed_with_its_children() {
    let mut spec = shell("trap '' TERM; sleep 1000 & echo $! > child; while :; do sleep 1; done");
    spec.time_limit_ms = Some(300);
    let mut trial = Trial::start(spec);
    let child = trial.pid("child");
    let (_, end) = trial.finish();
    let Some(TrialEnd::Outcome(Outcome::Failed { class, message })) = end else {
        panic!("{end:?}")
    };
    assert_eq!(class, FailureClass::Timeout);
    assert!(message.contains("0.3 s"), "{message}");
    assert_dies(child);
}

#[test]
fn the_death_of_the_agent_ends_everything() {
    // One process in the program's group, and one that left it for a session of its own.
    let script = "sleep 1000 & echo $! > child; \
                  setsid sh -c 'echo $$ > runaway; exec sleep 1000' & \
                  trap '' TERM; while :; do sleep 1; done";
    let mut trial = Trial::start(shell(script));
    let (child, runaway) = (trial.pid("child"), trial.pid("runaway"));
    trial.control = None;
    assert_eq!(trial.exit().signal(), Some(9));
    assert_dies(child);
    assert_dies(runaway);
}

#[test]
fn a_lease_that_nobody_renews_ends_everything() {
    let mut trial = Trial::start_until(shell("echo $$ > child; exec sleep 1000"), 1_500);
    let child = trial.pid("child");
    assert_eq!(trial.finish().1, None);
    assert_dies(child);
}

#[test]
fn a_trainings_lease_that_nobody_renews_ends_it() {
    let text = vec![b'x'; 20_000];
    let mut spec = training(&text);
    let Runner::Train(train) = &mut spec.runner else { unreachable!("it is a training") };
    train.steps = 10_000_000;
    let mut trial = Trial::start_with(spec, 1_500, &text, Vec::new());
    assert_eq!(trial.exit().signal(), Some(9));
}

#[test]
fn a_renewed_lease_goes_on() {
    let mut trial = Trial::start_until(shell("while [ ! -e go ]; do sleep 0.05; done"), 2_000);
    let first = trial.order.lease_until;
    trial.say(&Control::Lease(first.plus_ms(HOUR_MS)));
    // An older deadline that comes late takes nothing away.
    trial.say(&Control::Lease(first));
    eventually("the end of the first lease", || (clock::now() > first.plus_ms(500)).then_some(()));
    std::fs::write(trial.order.folders.attempt.join("work/go"), "").unwrap();
    assert_eq!(trial.finish().1, Some(completed(BTreeMap::new())));
}

#[test]
fn a_training_that_was_killed_goes_on_to_the_same_bits() {
    let text: Vec<u8> = (0..20_000_u32).map(|index| (index * index % 251) as u8).collect();
    check_killed(training(&text), &text, "validation_loss");
}

#[test]
fn a_policy_that_was_killed_goes_on_to_the_same_bits() {
    let pairs: Vec<u8> = (0..40)
        .flat_map(|n| format!("{{\"prompt\":\"{n}?\",\"completion\":\"{n}\"}}\n").into_bytes())
        .collect();
    check_killed(policy(&pairs), &pairs, "reward");
}

#[track_caller]
fn check_killed(spec: TrialSpec, text: &[u8], metric: &str) {
    let (_, undisturbed) = Trial::start_with(spec.clone(), HOUR_MS, text, Vec::new()).finish();
    let mut killed = Trial::start_with(spec.clone(), HOUR_MS, text, Vec::new());
    let checkpoint = killed.next_checkpoint();
    killed.child.kill().unwrap();
    assert_eq!(killed.exit().signal(), Some(9));
    let mut resumed = Trial::start_with(spec, HOUR_MS, text, vec![checkpoint.clone()]);
    let (points, end) = resumed.finish();
    let first = points.iter().find(|(name, ..)| name == "loss").map_or(u64::MAX, |p| p.1);
    assert!(first >= checkpoint.step, "it began again at step {first}: {}", resumed.log());
    assert_eq!(bits(end, metric), bits(undisturbed, metric));
}

/// Two members of one training, of which the second may go on from `resume`.
fn gang(spec: &TrialSpec, text: &[u8], resume: &[Checkpoint]) -> [Trial; 2] {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let master_port = free.local_addr().unwrap().port();
    drop(free);
    [0, 1].map(|rank| {
        let gang = Gang { world_size: 2, master_addr: "localhost".into(), master_port };
        let resume = if rank == 1 { resume.to_vec() } else { Vec::new() };
        Trial::start_member(spec.clone(), HOUR_MS, text, resume, (rank, Some(gang)))
    })
}

/// What the first member of a gang finds; the second says that it ended well, and no more.
#[track_caller]
fn trained([mut first, mut second]: [Trial; 2]) -> u64 {
    let (points, end) = first.finish();
    assert!(!points.is_empty(), "{}", first.log());
    assert_eq!(second.finish(), (Vec::new(), Some(completed(BTreeMap::new()))), "{}", second.log());
    bits(end, "validation_loss")
}

#[test]
fn a_gang_ends_when_a_member_is_killed_and_goes_on_to_the_same_bits() {
    let text: Vec<u8> = (0..20_000_u32).map(|index| (index * index % 251) as u8).collect();
    let spec = training(&text);
    let undisturbed = trained(gang(&spec, &text, &[]));
    let [mut first, mut second] = gang(&spec, &text, &[]);
    let checkpoint = first.next_checkpoint();
    let killed_at = clock::now();
    second.child.kill().unwrap();
    let lost = |member: &mut Trial| {
        let (_, end) = member.finish();
        let Some(TrialEnd::Outcome(Outcome::Failed { class, message })) = end else {
            panic!("{end:?}: {}", member.log())
        };
        assert_eq!(class, FailureClass::Infrastructure);
        assert!(message.starts_with("lost rank 1"), "{message}");
        clock::now()
    };
    // The second one's agent may know why, and tells it two seconds after its end at the latest.
    assert!(lost(&mut first).since_ms(killed_at) > 4_000);
    let [mut asked, mut second] = gang(&spec, &text, &[]);
    asked.next_checkpoint();
    second.child.kill().unwrap();
    let asked_at = clock::now();
    asked.say(&Control::Stop);
    assert!(lost(&mut asked).since_ms(asked_at) < 4_000);
    // The first has lost its memory, and gets what the second has.
    assert_eq!(trained(gang(&spec, &text, &[checkpoint])), undisturbed);
}

#[test]
fn a_gang_stops_together_whoever_is_asked() {
    let text = vec![b'x'; 20_000];
    let mut spec = training(&text);
    let Runner::Train(train) = &mut spec.runner else { unreachable!("it is a training") };
    train.steps = 10_000_000;
    spec.checkpoint_every_ms = Some(HOUR_MS);
    for asked in [0, 1] {
        let mut members = gang(&spec, &text, &[]);
        while !matches!(members[0].next_record(), Some(TrialRecord::Metric(_))) {}
        members[asked].say(&Control::Stop);
        members[0].next_checkpoint();
        let [mut first, mut second] = members;
        match (asked, first.finish().1) {
            (0, Some(TrialEnd::Stopped)) => {}
            (1, Some(TrialEnd::Outcome(Outcome::Failed { class, .. }))) => {
                assert_eq!(class, FailureClass::Cancelled);
            }
            (_, end) => panic!("{end:?}: {}", first.log()),
        }
        // The second one waits for the agent's word, if it has not had it.
        second.say(&Control::Stop);
        assert_eq!(second.finish().1, Some(TrialEnd::Stopped), "{}", second.log());
    }
}

#[test]
fn a_training_obeys_a_stop_and_leaves_a_checkpoint() {
    let text = vec![b'x'; 20_000];
    let mut spec = training(&text);
    let Runner::Train(train) = &mut spec.runner else { unreachable!("it is a training") };
    train.steps = 10_000_000;
    spec.checkpoint_every_ms = Some(HOUR_MS);
    let mut trial = Trial::start_with(spec, HOUR_MS, &text, Vec::new());
    while !matches!(trial.next_record(), Some(TrialRecord::Metric(_))) {}
    trial.say(&Control::Stop);
    let mut saved = 0;
    let end = loop {
        match trial.next_record() {
            Some(TrialRecord::Checkpoint(_)) => saved += 1,
            Some(TrialRecord::Ended(end)) => break end,
            Some(TrialRecord::Started | TrialRecord::Metric(_)) => {}
            None => panic!("it died: {}", trial.log()),
        }
    };
    assert_eq!((end, saved), (TrialEnd::Stopped, 1));
}

#[test]
fn an_agent_that_dies_in_the_middle_of_its_order_leaves_no_process() {
    let mut child = spawn(Stdio::null());
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_person_cannot_start_a_trial_by_hand() {
    for (program, argument, words) in [
        (AGENT, "run-trial", "error: run-trial is started by an agent"),
        (KEEPER, "/nowhere", "error: brine-agent-keeper is started by brine-agent"),
    ] {
        let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(words), "{text}");
    }
}

#[track_caller]
fn check_failure(spec: TrialSpec, expected: FailureClass, words: &str) {
    let mut trial = Trial::start(spec);
    let (_, end) = trial.finish();
    let Some(TrialEnd::Outcome(Outcome::Failed { class, message })) = end else {
        panic!("{end:?}: {}", trial.log())
    };
    assert_eq!(class, expected, "{message}");
    assert!(message.contains(words), "{message}");
}

fn completed(metrics: BTreeMap<String, f64>) -> TrialEnd {
    TrialEnd::Outcome(Outcome::Completed { metrics, checkpoint: None })
}

fn shell(script: &str) -> TrialSpec {
    program(&["/bin/sh", "-c", script])
}

fn program(arguments: &[&str]) -> TrialSpec {
    TrialSpec {
        runner: Runner::Command(CommandSpec {
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
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

fn training(text: &[u8]) -> TrialSpec {
    let hash = BlobId::from_hash(blake3::hash(text));
    let train = TrainSpec {
        numerics: NUMERICS_VERSION,
        model: ModelSpec {
            vocabulary: 256,
            sequence: 32,
            width: 16,
            layers: 1,
            heads: 2,
            mlp_width: 32,
            mlp: Mlp::Gelu,
            tied: true,
            positions: Positions::Learned,
            norm: Norm::LayerNorm,
        },
        data: DataSpec {
            text: BlobRef { blob: hash, bytes: text.len() as u64 },
            format: TokenFormat::Bytes,
            held_out: 0.1,
            packing: Packing::Stream,
            tokenizer: None,
        },
        batch: 2,
        steps: 300,
        optimizer: Optimizer::AdamW(AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: Some(1.0),
        }),
        schedule: Schedule::linear(0.1, 0.2),
        accumulation: 1,
        ema: None,
        precision: proto::Precision::Float32,
        budget: None,
        validation: Validation::at_the_end(640),
    };
    let runner = Runner::Train(Box::new(train));
    TrialSpec { runner, checkpoint_every_ms: Some(1), ..shell("true") }
}

fn policy(pairs: &[u8]) -> TrialSpec {
    let Runner::Train(train) = training(pairs).runner else { unreachable!("it is a training") };
    let Optimizer::AdamW(optimizer) = train.optimizer else { unreachable!("it is AdamW") };
    let grpo = GrpoSpec {
        numerics: NUMERICS_VERSION,
        model: ModelSpec { vocabulary: POLICY_VOCABULARY, ..train.model },
        problems: Problems::Pairs { file: train.data.text, verifier: VerifierKind::Number },
        held_out: 0.3,
        completion_tokens_max: 3,
        supervised: Supervised {
            steps: 20,
            batch: 8,
            optimizer: optimizer.clone(),
            warmup_steps: 0,
        },
        policy: Policy {
            steps: 20,
            prompts: 4,
            rollouts: 4,
            temperature: 1.0,
            updates: 2,
            variant: Variant::GrpoClip,
            clip: 0.2,
            kl: 0.1,
            optimizer,
            warmup_steps: 0,
        },
        evaluation: Evaluation { every_steps: 0, problems: 10 },
    };
    let runner = Runner::Grpo(Box::new(grpo));
    TrialSpec { runner, checkpoint_every_ms: Some(1), ..shell("true") }
}

#[track_caller]
fn bits(end: Option<TrialEnd>, metric: &str) -> u64 {
    let Some(TrialEnd::Outcome(Outcome::Completed { metrics, checkpoint })) = end else {
        panic!("{end:?}")
    };
    assert!(checkpoint.is_some(), "the trained model is kept");
    metrics[metric].to_bits()
}

fn command(spec: &mut TrialSpec) -> &mut CommandSpec {
    match &mut spec.runner {
        Runner::Command(command) => command,
        Runner::Train(_) | Runner::Grpo(_) | Runner::Noop => {
            unreachable!("these tests run commands")
        }
    }
}
