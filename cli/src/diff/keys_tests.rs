use super::*;
use crate::diff::trials::{Comparison, Plan, compare};

const BASE: &str = r#"
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: base}
spec:
  study:
    sweep:
      command:
        arguments: [python3, a.py, "{lr}"]
        files: [a.py]
      parameters: {lr: {choice: [1, 2]}}
      search: grid
      seeds: [0]
      metric: {name: loss, goal: minimize}
  resources: {cpus: 1, memory: 1GiB}
  retries: {trial: 0}
  checkpoint: {every: 60s}
  limits: {trial_time: 2m}
  priority: 0
"#;

fn inputs(content: &[u8]) -> Inputs {
    let blob = proto::BlobId::from_hash(blake3::hash(content));
    let file = BlobRef { blob, bytes: content.len() as u64 };
    Inputs { data: None, files: BTreeMap::from([("a.py".to_owned(), file)]) }
}

/// Whether the first plans of two recipes have the same trials.
fn same_trials(old: &Recipe, new: &Recipe) -> bool {
    let plan = |recipe: &Recipe| Plan::first(recipe.study(&inputs(b"1")).unwrap());
    match compare(&plan(old), &plan(new), &BTreeSet::new(), |_| {}) {
        Comparison::Matched(matched) => matched.added.count + matched.dropped.count == 0,
        Comparison::TooMany => panic!("the plans are small"),
    }
}

#[test]
fn each_key_is_named_as_the_recipe_writes_it_with_what_it_decides() {
    let old = Recipe::parse(BASE).unwrap();
    for (from, to, expected) in [
        (
            "choice: [1, 2]",
            "choice: [1, 3]",
            "spec.study.sweep.parameters.lr: choice [1, 2] -> [1, 3] (decides the trials)",
        ),
        ("seeds: [0]", "seeds: [1]", "spec.study.sweep.seeds: [0] -> [1] (decides the trials)"),
        (
            "[python3, a.py,",
            "[python3, -u, a.py,",
            "spec.study.sweep.command.arguments: [python3, a.py, {lr}] -> \
             [python3, -u, a.py, {lr}] (decides the trials)",
        ),
        (
            "goal: minimize",
            "goal: maximize",
            "spec.study.sweep.metric.goal: minimize -> maximize \
             (the same trials, in another experiment)",
        ),
        ("cpus: 1", "cpus: 2", "spec.resources.cpus: 1 -> 2 (decides the trials)"),
        (
            "memory: 1GiB",
            "memory: 2GiB",
            "spec.resources.memory: 1.0 GiB -> 2.0 GiB (decides the trials)",
        ),
        (
            "retries: {trial: 0}",
            "retries: {trial: 2}",
            "spec.retries.trial: 0 -> 2 (the same trials, in another experiment)",
        ),
        (
            "trial_time: 2m",
            "trial_time: 3m",
            "spec.limits.trial_time: 2m 00s -> 3m 00s (the same trials, in another experiment)",
        ),
        (
            "priority: 0",
            "labels: {zone: a}",
            "spec.labels.zone: nothing -> a (the same trials, in another experiment)",
        ),
        (
            "every: 60s",
            "every: 5s",
            "spec.checkpoint.every: 1m 00s -> 5.0s (changes no trial and no result)",
        ),
        ("priority: 0", "priority: 5", "spec.priority: 0 -> 5 (changes no trial and no result)"),
        (
            "trial_time: 2m",
            "trial_time: 2m, trials_at_once: 3",
            "spec.limits.trials_at_once: nothing -> 3 (changes no trial and no result)",
        ),
        (
            "name: base",
            "name: other",
            "metadata.name: base -> other (the same trials, in another experiment)",
        ),
    ] {
        assert!(BASE.contains(from), "{from}");
        let new = Recipe::parse(&BASE.replace(from, to)).unwrap();
        let changes = changes((&old, &inputs(b"1")), (&new, &inputs(b"1"))).unwrap();
        let lines: Vec<String> = changes.iter().map(Change::line).collect();
        assert_eq!(lines, [expected]);
        // What is said about the effect is what the ids say.
        let [old_id, new_id] = [&old, &new].map(|recipe| recipe.id(&inputs(b"1")));
        assert_eq!(same_trials(&old, &new), changes[0].effect != Effect::Trials, "{from}");
        assert_eq!(old_id == new_id, changes[0].effect == Effect::Nothing, "{from}");
    }
}

#[test]
fn layout_and_written_defaults_are_no_change() {
    let old = Recipe::parse(BASE).unwrap();
    let new = BASE.replace("retries: {trial: 0}", "# five\n  retries: {infrastructure: 5}");
    let new = Recipe::parse(&new).unwrap();
    assert_eq!(changes((&old, &inputs(b"1")), (&new, &inputs(b"1"))).unwrap(), []);
}

#[test]
fn a_file_with_other_content_is_a_change() {
    let recipe = Recipe::parse(BASE).unwrap();
    let changes = changes((&recipe, &inputs(b"1")), (&recipe, &inputs(b"22"))).unwrap();
    let line = changes[0].line();
    assert!(line.starts_with("content of a.py: "), "{line}");
    assert!(line.ends_with("(2 B) (decides the trials)"), "{line}");
    assert_eq!(changes.len(), 1);
}

#[test]
fn a_long_value_is_cut() {
    let change = Change {
        key: "k".to_owned(),
        old: Some("é".repeat(VALUE_CHARS_MAX + 1)),
        new: None,
        effect: Effect::Nothing,
    };
    let line = change.line();
    assert!(line.starts_with("k: é") && line.contains("é… -> nothing ("), "{line}");
}
