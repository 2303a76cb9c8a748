//! Recipes compared with each other, and series written for other programs.

use crate::bench::Bench;

const SWEEP: &str = r#"
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: shell}
spec:
  study:
    sweep:
      command:
        arguments: [sh, script.sh, "{x}"]
        files: [script.sh]
      parameters: {x: {choice: [1, 2, 3]}}
      search: grid
      metric: {name: loss, goal: minimize}
"#;

/// Reports its argument and its square.
const SCRIPT: &str = r#"
echo "{\"metric\": \"loss\", \"step\": 1, \"value\": $1}" >&"$BRINE_METRICS_FD"
echo "{\"metric\": \"loss\", \"step\": 2, \"value\": $(($1 * $1))}" >&"$BRINE_METRICS_FD"
"#;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("old.yaml", SWEEP);
    bench.write("new.yaml", &SWEEP.replace("[1, 2, 3]", "[2, 3, 4]"));
    bench.write("script.sh", SCRIPT);
    bench
}

#[test]
fn a_changed_recipe_says_what_it_adds_keeps_and_drops_and_why() {
    let bench = bench();
    let files = bench.brine(&["diff", "old.yaml", "new.yaml"]).code(0);
    for text in [
        "spec.study.sweep.parameters.x: choice [1, 2, 3] -> [2, 3, 4] (decides the trials)",
        "trials: 1 added, 2 kept, 1 dropped",
        "`brine submit new.yaml` runs only the 1 trial added",
    ] {
        assert!(files.stdout.contains(text), "{text}: {}", files.stdout);
    }
    bench.brine(&["run", "old.yaml", "--output", "quiet"]).code(0);
    let arguments = ["diff", "shell", "new.yaml", "--output", "json"];
    let json = bench.brine(&arguments).code(0).json();
    assert_eq!(json["trials"]["kept"], serde_json::json!({ "count": 2, "ended": 2 }));
    assert_eq!(json["trials"]["added"]["first"][0]["parameters"]["x"], 4);
    assert_eq!(json["trials"]["dropped"]["first"][0]["parameters"]["x"], 1);
    // The claim is true: the new recipe starts one trial and takes two over.
    let ended = bench.brine(&["run", "new.yaml", "--output", "json"]).code(0);
    assert_eq!(ended.json()["trials"].as_array().map(Vec::len), Some(3));
    let worked = ended.stderr.matches(" completed ").count();
    assert_eq!(worked, 1, "{}", ended.stderr);
    let neither = bench.brine(&["diff", "nothing", "new.yaml"]).code(1);
    assert!(neither.stderr.contains("there is no experiment \"nothing\""), "{}", neither.stderr);
}

#[test]
fn two_large_grids_are_compared_by_their_keys() {
    let bench = Bench::new();
    let grid = "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {name: g}\nspec:\n  study:\n    \
                sweep:\n      noop: {}\n      parameters: {x: {range: [0, 10000000]}}\n      search: grid\n";
    bench.write("a.yaml", grid);
    bench.write("b.yaml", &format!("{grid}  priority: 3\n"));
    let ended = bench.brine(&["diff", "a.yaml", "b.yaml"]).code(0);
    for text in [
        "10000000 trials",
        "spec.priority: 0 -> 3 (changes no trial and no result)",
        "both have more than 100000 trials, so trials were not compared one by one",
        "goes on with the same experiment",
    ] {
        assert!(ended.stdout.contains(text), "{text}: {}", ended.stdout);
    }
}

#[test]
fn the_series_of_an_experiment_are_written_for_other_programs() {
    let bench = bench();
    bench.brine(&["run", "old.yaml", "--output", "quiet"]).code(0);
    let written = bench.brine(&["export", "shell", "--format", "csv", "--to", "out"]).code(0);
    let path = written.stdout.trim();
    let text = std::fs::read_to_string(bench.path(path)).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["trial", "attempt", "metric", "step", "value"]);
    let values: Vec<&[&str]> = rows[1..].iter().map(|row| &row[1..]).collect();
    assert_eq!(values[4..], [["1", "loss", "1", "3"], ["1", "loss", "2", "9"]]);
    assert_eq!(rows.len(), 7);
    let arguments =
        ["export", "shell", "--format", "tensorboard", "--to", "runs", "--output", "json"];
    // Twice: the second replaces the first.
    bench.brine(&arguments).code(0);
    let json = bench.brine(&arguments).code(0).json();
    assert_eq!((&json["trials"], &json["points"]), (&3.into(), &6.into()));
    let mut runs = 0;
    for folder in std::fs::read_dir(bench.path("runs")).unwrap() {
        let files = std::fs::read_dir(folder.unwrap().path()).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(names[0].to_string_lossy().starts_with("events.out.tfevents."), "{names:?}");
        runs += 1;
    }
    assert_eq!(runs, 3);
}
