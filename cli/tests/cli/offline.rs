//! The commands that need no coordinator, through the real program.

use crate::bench::Bench;

const SWEEP: &str = "\
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: noise}
spec:
  study:
    sweep:
      command:
        arguments: [python3, script.py]
        files: [script.py]
      parameters:
        lr: {choice: [0.1, 0.2]}
        width: {choice: [8, 16, 32]}
      search: grid
      metric: {name: score, goal: minimize}
";

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = Bench::new().brine(&["--help"]).code(0);
    for word in ["run", "validate", "plan", "fit", "doctor", "Exit codes:", "70"] {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    assert_eq!(help.stderr, "");
}

#[test]
fn a_wrong_command_line_is_code_2() {
    let bench = Bench::new();
    for arguments in [
        &["fly"][..],
        &["run"],
        &["fit", "x.csv"],
        &["fit", "x.csv", "--flops", "a", "--tokens", "b"],
        &["fit", "x.csv", "--tokens", "b", "--bootstrap", "-1"],
        &["fit", "x.csv", "--tokens", "b", "--where", "novalue"],
        &["plan", "x.yaml", "--flops-per-second", "0"],
        &["logs", "0123", "--attempt", "0"],
        &["status", "--coordinator", "localhost"],
    ] {
        let token = bench.write("token", "0123456789abcdef0123456789abcdef");
        let mut command = bench.command(arguments);
        command.env("BRINE_TOKEN_FILE", token);
        let ended = bench.finish(command.spawn().unwrap()).code(2);
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(ended.stderr.contains("error:"), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Bench::new().brine(&["completions", shell]).code(0).stdout;
        assert!(script.contains("brine") && script.contains("validate"), "{shell}");
    }
}

#[test]
fn validate_checks_every_recipe_and_says_what_is_wrong() {
    let bench = Bench::new();
    bench.write("good.yaml", SWEEP);
    bench.write("bad.yaml", &SWEEP.replace("search:", "serch:"));
    let good = bench.brine(&["validate", "good.yaml"]).code(0);
    assert_eq!(good.stdout, "good.yaml: valid (sweep noise)\n");
    let bad = bench.brine(&["validate", "bad.yaml"]).code(1);
    assert_eq!(bad.stdout, "");
    assert!(
        bad.stderr.starts_with("error: bad.yaml: spec.study.sweep (line 13, column 7): "),
        "{}",
        bad.stderr
    );
    assert!(bad.stderr.contains("hint: ") && bad.stderr.contains("search"), "{}", bad.stderr);
    let both = bench.brine(&["validate", "bad.yaml", "good.yaml", "missing.yaml"]).code(1);
    assert_eq!(both.stdout, "good.yaml: valid (sweep noise)\n");
    assert!(both.stderr.contains("cannot read the recipe missing.yaml"), "{}", both.stderr);
    assert!(both.stderr.ends_with("error: 2 of 3 recipes are wrong\n"), "{}", both.stderr);
    let json =
        bench.brine(&["validate", "--output", "json", "bad.yaml", "good.yaml"]).code(1).json();
    assert_eq!((&json[0]["valid"], &json[1]["valid"]), (&false.into(), &true.into()));
}

#[test]
fn all_mistakes_of_a_recipe_are_told_at_once() {
    let bench = Bench::new();
    bench.write("good.yaml", SWEEP);
    let wrong = SWEEP.replace("search:", "serch:").replace("minimize", "smallest");
    bench
        .write("bad.yaml", &format!("{wrong}  retries: {{trial: 500}}\n  limits: {{trials: 0}}\n"));
    let expected = "\
error: bad.yaml: spec.study.sweep (line 13, column 7): unknown key `serch`
hint: did you mean `search`?
error: bad.yaml: spec.study.sweep.metric.goal (line 14, column 35): unknown name `smallest`
hint: known: `minimize`, `maximize`
error: bad.yaml: spec.retries.trial (line 15, column 20): must be from 0 to 100, found 500
error: bad.yaml: spec.limits.trials (line 16, column 20): must be at least 1, found 0
hint: leave the key out for no limit
error: bad.yaml has 4 mistakes
";
    for arguments in [&["validate", "bad.yaml"][..], &["run", "bad.yaml"], &["plan", "bad.yaml"]] {
        let bad = bench.brine(arguments).code(1);
        assert_eq!((bad.stdout.as_str(), bad.stderr.as_str()), ("", expected));
    }
    let all = bench.brine(&["validate", "bad.yaml", "good.yaml", "bad.yaml"]).code(1);
    let sum = format!("{expected}{expected}error: 2 of 3 recipes are wrong\n");
    assert_eq!((all.stdout.as_str(), all.stderr), ("good.yaml: valid (sweep noise)\n", sum));
    let json = bench.brine(&["validate", "--output", "json", "bad.yaml"]).code(1).json();
    assert_eq!(json[0]["mistakes"].as_array().unwrap().len(), 4);
    let found = &json[0]["mistakes"][3];
    assert_eq!((&found["line"], &found["column"]), (&16.into(), &20.into()));
    assert_eq!(
        (&found["path"], &found["hint"]),
        (&"spec.limits.trials".into(), &"leave the key out for no limit".into())
    );
}

#[test]
fn a_recipe_of_ten_megabytes_or_of_bytes_is_refused_before_it_is_parsed() {
    let bench = Bench::new();
    bench.write("long.yaml", &"#\n".repeat(5 << 20));
    let long = bench.brine(&["validate", "long.yaml"]).code(1);
    assert!(long.stderr.contains("is longer than 1.0 MiB"), "{}", long.stderr);
    std::fs::write(bench.path("bytes.yaml"), b"a: \xff\xfe").unwrap();
    let bytes = bench.brine(&["validate", "bytes.yaml"]).code(1);
    assert!(bytes.stderr.contains("is not UTF-8 text"), "{}", bytes.stderr);
    let folder = bench.brine(&["validate", "."]).code(1);
    assert!(folder.stderr.contains("cannot read the recipe"), "{}", folder.stderr);
}

#[test]
fn plan_names_every_trial_once_and_the_same_each_time() {
    let bench = Bench::new();
    bench.write("sweep.yaml", SWEEP);
    bench.write("script.py", "print(1)");
    let first = bench.brine(&["plan", "sweep.yaml", "--output", "json"]).code(0).json();
    let again = bench.brine(&["plan", "sweep.yaml", "--output", "json"]).code(0).json();
    assert_eq!(first, again);
    assert_eq!(first["trials"].as_array().unwrap().len(), 6);
    assert_eq!(first["total"]["unknown"], 6);
    let human = bench.brine(&["plan", "sweep.yaml"]).code(0);
    assert!(human.stdout.contains("known only to the program"), "{}", human.stdout);
    bench.write("script.py", "print(2)");
    let changed = bench.brine(&["plan", "sweep.yaml", "--output", "json"]).code(0).json();
    assert_ne!(first["experiment"], changed["experiment"], "the script's content is part of it");
}

#[test]
fn plan_counts_the_cost_of_training() {
    let bench = Bench::new();
    let recipe = include_str!("../../../recipes/isoflop-mini.yaml");
    bench.write("isoflop.yaml", recipe);
    let arguments = ["plan", "isoflop.yaml", "--flops-per-second", "1e9", "--parallel", "2"];
    let human = bench.brine(&arguments).code(0);
    assert!(human.stdout.contains("in sum: "), "{}", human.stdout);
    assert!(human.stderr.contains("FLOPs = 3 f D"), "{}", human.stderr);
    let mut arguments = arguments.to_vec();
    arguments.extend(["--output", "json"]);
    let json = bench.brine(&arguments).code(0).json();
    let trials = json["trials"].as_array().unwrap();
    let flops: f64 = trials.iter().map(|trial| trial["flops"].as_f64().unwrap()).sum();
    assert_eq!(json["total"]["flops"].as_f64().unwrap(), flops);
    assert_eq!(json["total"]["device_seconds"].as_f64().unwrap(), flops / 1e9);
}

// Goal: five trials of the sweep find room on one GPU, and a share that is too small is said.
#[test]
fn plan_predicts_the_memory_of_a_shared_gpu() {
    let bench = Bench::new();
    let recipe = include_str!("../../../recipes/isoflop-h200.yaml");
    bench.write("sweep.yaml", recipe);
    bench.write("isoflop-h200/libraries.txt", &"text ".repeat(100_000));
    let arguments = ["plan", "sweep.yaml", "--output", "json"];
    let ended = bench.brine(&arguments).code(0);
    assert_eq!(ended.stderr, "");
    let json = ended.json();
    let trials = json["trials"].as_array().unwrap();
    let mut budgets: Vec<f64> =
        trials.iter().map(|t| t["parameters"]["flop_budget"].as_f64().unwrap()).collect();
    budgets.dedup();
    assert_eq!(budgets, [3e16, 1e16, 3e15, 1e15]);
    for trial in trials {
        let [parameters, steps, memory] =
            ["model_parameters", "steps", "memory_bytes"].map(|key| trial[key].as_f64());
        assert!((1e6..=60e6).contains(&parameters.unwrap()), "{trial}");
        assert!((500.0..10_000.0).contains(&steps.unwrap()), "{trial}");
        // The context of CUDA is not main memory's 165 MB, and a fifth of 70 GiB is 15 GB.
        assert!((500e6..15e9).contains(&memory.unwrap()), "{trial}");
    }
    bench.write("sweep.yaml", &recipe.replace("70GiB", "10GiB"));
    let crowded = bench.brine(&arguments).code(0);
    assert!(crowded.stderr.contains("of GPU memory"), "{}", crowded.stderr);
}

// Goal: trials with the same parameters are told apart, and the plan warns as the report will.
#[test]
fn plan_shows_seeds_that_differ_and_what_the_results_will_lack() {
    let bench = Bench::new();
    bench.write("script.py", "print(1)");
    bench.write("sweep.yaml", &SWEEP.replace("search: grid", "search: grid\n      seeds: [5, 77]"));
    let plan = bench.brine(&["plan", "sweep.yaml"]).code(0).stdout;
    assert!(plan.contains("seed") && plan.contains(" 77 "), "{plan}");
    bench.write("one.yaml", SWEEP);
    assert!(!bench.brine(&["plan", "one.yaml"]).code(0).stdout.contains("seed"));
    let recipe = include_str!("../../../recipes/isoflop-mini.yaml");
    let line = |line: &str| match line.trim_start().split_once(':') {
        Some(("flop_budgets", _)) => "      flop_budgets: [1.0e11]".to_owned(),
        Some(("widths", _)) => "      widths: [16, 32, 4096]".to_owned(),
        Some(_) | None => line.to_owned(),
    };
    let lines: Vec<String> = recipe.lines().map(line).collect();
    bench.write("iso.yaml", &lines.join("\n"));
    let plan = bench.brine(&["plan", "iso.yaml"]).code(0).stdout;
    assert!(plan.contains("note: a parabola needs 3 model sizes"), "{plan}");
    assert!(plan.contains("cells of the grid are left out"), "{plan}");
}

// Goal: a recipe that finds no place is no forecast, and what is left out is said.
#[test]
fn sim_says_what_cannot_run_and_what_it_leaves_out() {
    let bench = Bench::new();
    bench.write("script.py", "print(1)");
    for (lines, options, why) in [
        ("  resources: {gpus: 1}\n", &["--gpus", "0"][..], "0 fitting GPUs free, 1 wanted"),
        ("  members: 2\n", &["--cpus", "1"][..], "an agent that can run it"),
    ] {
        bench.write("sweep.yaml", &format!("{SWEEP}{lines}"));
        let ended = bench.brine(&[&["sim", "sweep.yaml"][..], options].concat()).code(1);
        assert!(ended.stdout.contains("6 cannot run"), "{}", ended.stdout);
        let said = "6 of 6 trials cannot run on these machines: the first waits for";
        assert!(ended.stderr.contains(said) && ended.stderr.contains(why), "{}", ended.stderr);
    }
    bench.write("sweep.yaml", &format!("{SWEEP}  limits: {{trial_time: 30s}}\n"));
    let ended = bench.brine(&["sim", "sweep.yaml"]).code(0);
    assert!(ended.stdout.contains("note: limits.trial_time is not simulated"), "{}", ended.stdout);
}

#[test]
fn what_is_on_the_command_line_wins_over_the_environment() {
    let bench = Bench::new();
    let mut command = bench.command(&["status", "--data-dir", "mine"]);
    command.env("BRINE_COORDINATOR", "http://127.0.0.1:1").env("BRINE_TOKEN_FILE", "nowhere");
    let ended = bench.finish(command.spawn().unwrap()).code(1);
    assert!(ended.stderr.contains("serves the data folder mine"), "{}", ended.stderr);
    let both = ["status", "--data-dir", "mine", "--coordinator", "http://127.0.0.1:1"];
    let refused = bench.brine(&both).code(2);
    assert!(refused.stderr.contains("cannot be used with"), "{}", refused.stderr);
}

#[test]
fn files_that_a_recipe_names_must_be_there() {
    let bench = Bench::new();
    bench.write("sweep.yaml", SWEEP);
    let missing = bench.brine(&["plan", "sweep.yaml"]).code(1);
    assert!(missing.stderr.contains("script.py"), "{}", missing.stderr);
    assert_eq!(missing.stdout, "");
}

#[test]
fn status_of_an_empty_folder_says_how_to_begin() {
    let bench = Bench::new();
    for command in ["status", "results", "watch"] {
        let ended = bench.brine(&[command]).code(1);
        assert!(
            ended.stderr.contains("no coordinator serves the data folder .brine"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains("hint: "), "{}", ended.stderr);
        assert!(!bench.path(".brine").exists(), "{command} leaves nothing behind");
    }
}

#[test]
fn nobody_at_an_address_is_said_with_the_address() {
    let bench = Bench::new();
    // Bound and dropped: nothing listens there now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let token = bench.write("token", "0123456789abcdef0123456789abcdef");
    let token = token.to_str().unwrap();
    let ended = bench.brine(&["status", "--coordinator", &url, "--token-file", token]).code(1);
    assert!(ended.stderr.contains(&format!("no coordinator answers at {url}")), "{}", ended.stderr);
}

#[test]
fn the_recipe_in_the_readme_is_valid() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (recipe, _) = rest.split_once("```").unwrap();
    let bench = Bench::new();
    bench.write("readme.yaml", recipe);
    bench.brine(&["validate", "readme.yaml"]).code(0);
}
