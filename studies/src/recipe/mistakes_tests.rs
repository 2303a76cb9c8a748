//! All mistakes of a recipe are told, and nothing that only follows from one.

use super::error::{Path, Step};
use super::node::{Kind, Node};
use super::tests::{recipes, texts_in, with_spec};
use super::{MISTAKES_MAX, Recipe, yaml};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A training that has every key which others depend on.
const TRAINING: &str = "  study:
    train:
      data: {files: a, format: jsonl, tokenizer: t.json, end_of_document: end, packing: documents}
      vocabulary: 300
      model: {sequence: 64, width: 96, heads: 6, mlp_width: 200, positions: learned}
      batch: 8
      length: {flops: 1.0e12}
      budget: {flops: 1.0e11}
      learning_rates: [0.1, 0.2]
      optimizer:
        kind: muon
        momentum: 0.9
        nesterov: false
        muon: {scale: original, rate: 2.0, rest: adamw}
        epsilon: 1.0e-8
        warmup: 0.5
        decay: 0.5
      training: {accumulation: 2, ema: 0.9}
      validation: {tokens: 100, target: 2.0}
      seeds: [1, 2]
  resources: {gpus: 1, gpu_memory: 8GiB, cpus: 2, memory: 1GiB, extras: {licence: 1}}
  alternatives: [{gpus: 1, gpu_memory: 9GiB}, {cpus: 9}]
  labels: {zone: a}
  members: 8
  priority: 3
  weight: 2
  retries: {infrastructure: 1, trial: 2}
  checkpoint: {every: 9s}
  hang: {steps: 9, at_least: 9s, then: retry}
  limits: {trial_time: 1h, trials_at_once: 1, trials: 9, gpu_hours: 1.5, flops: 1.0e15}
";

/// A sweep of the same kind.
const SWEEP: &str = "  study:
    sweep:
      command:
        arguments: [x, \"{width}\", \"{lr}\"]
        files: [a.py, b.py]
        environment: {RATE: \"{lr}\"}
        working_folder: /tmp
      parameters:
        lr: {log_uniform: [0.1, 0.2]}
        width: {choice: [1, 2]}
      search: {random: {trials: 9, seed: 1}}
      seeds: [1, 2]
      metric: {name: loss, goal: minimize}
      early_stopping: {median: {grace_steps: 1, every_steps: 1, max_steps: 9, min_trials: 2}}
";

fn documents() -> Vec<(String, Node)> {
    let mut texts = texts_in(recipes());
    texts.extend(texts_in(recipes().join("bench")));
    let full = [("full training", TRAINING), ("full sweep", SWEEP)];
    texts.extend(full.map(|(name, spec)| (name.to_owned(), with_spec(spec))));
    texts.into_iter().map(|(name, text)| (name, yaml::read(&text).unwrap())).collect()
}

/// Every value below the header, with its path.
fn values_of(document: &Node) -> Vec<(Path, Kind)> {
    fn gather(node: &Node, path: &Path, found: &mut Vec<(Path, Kind)>) {
        if !["", "apiVersion", "kind"].contains(&path.to_string().as_str()) {
            found.push((path.clone(), node.kind.clone()));
        }
        if let Kind::Section(entries) = &node.kind {
            for (key, _, value) in entries {
                gather(value, &path.key(key), found);
            }
        }
        if let Kind::List(items) = &node.kind {
            for (index, value) in items.iter().enumerate() {
                gather(value, &path.index(index), found);
            }
        }
    }
    let mut found = Vec::new();
    gather(document, &Path::default(), &mut found);
    found
}

fn set(document: &mut Node, path: &Path, kind: Kind) {
    let mut node = document;
    for step in path.steps() {
        node = match (step, &mut node.kind) {
            (Step::Key(key), Kind::Section(entries)) => {
                &mut entries.iter_mut().find(|(name, _, _)| name == key).unwrap().2
            }
            (Step::Index(index), Kind::List(items)) => &mut items[*index],
            _ => panic!("{path} is not there"),
        };
    }
    node.kind = kind;
}

/// What no key of a recipe can be.
fn unreadable(document: &Node) -> Kind {
    let list = |items| Node { place: document.place, kind: Kind::List(items) };
    Kind::List(vec![list(vec![])])
}

/// What is said about `document` with other values at these paths.
fn told(document: &Node, edits: &[(&Path, Kind)]) -> BTreeSet<String> {
    let mut document = document.clone();
    for (path, kind) in edits {
        set(&mut document, path, kind.clone());
    }
    let mistakes = Recipe::read(document).err();
    mistakes.iter().flat_map(|mistakes| mistakes.iter().map(ToString::to_string)).collect()
}

// Goal: whatever else depends on a value, one that cannot be read is one mistake, and two are two.
#[test]
fn of_any_two_values_that_cannot_be_read_both_are_told_and_nothing_else() {
    for (name, document) in documents() {
        assert_eq!(told(&document, &[]), BTreeSet::new(), "{name}");
        let paths: Vec<Path> = values_of(&document).into_iter().map(|(path, _)| path).collect();
        let wrong = |path| (path, unreadable(&document));
        let alone: Vec<_> = paths.iter().map(|path| told(&document, &[wrong(path)])).collect();
        for (index, path) in paths.iter().enumerate() {
            assert_eq!(alone[index].len(), 1, "{name}: {path}: {:#?}", alone[index]);
            for (earlier, other) in paths[..index].iter().enumerate() {
                if !path.touches(other) {
                    let both = told(&document, &[wrong(path), wrong(other)]);
                    let expected = &alone[index] | &alone[earlier];
                    assert_eq!(both, expected, "{name}: {path}, {other}");
                }
            }
        }
    }
}

// Goal: a value that cannot be read makes no mistake elsewhere, and is told beside any other.
#[test]
fn beside_a_value_that_cannot_be_read_only_what_is_wrong_without_it_is_told() {
    let wild = |kind: &Kind| match kind {
        Kind::Integer(_) | Kind::Number(_) => {
            vec![Kind::Integer(0), Kind::Integer(-1), Kind::Integer(7), Kind::Number(1e300)]
        }
        Kind::Text(_) => ["", "{x}", "-1s", "1B"].map(|text| Kind::Text(text.to_owned())).into(),
        Kind::List(_) => vec![Kind::List(Vec::new())],
        Kind::Section(_) => vec![Kind::Section(Vec::new())],
        Kind::Nothing | Kind::Bool(_) | Kind::Blank => Vec::new(),
    };
    let chosen = ["reference-grpo.yaml", "isoflop-mini.yaml", "full training", "full sweep"];
    for (name, document) in documents().into_iter().filter(|(name, _)| chosen.contains(&&**name)) {
        let values = values_of(&document);
        let wrong = |path| (path, unreadable(&document));
        let alone: Vec<_> =
            values.iter().map(|(path, _)| told(&document, &[wrong(path)])).collect();
        for (path, kind) in &values {
            for kind in wild(kind) {
                let without = told(&document, &[(path, kind.clone())]);
                let others =
                    values.iter().zip(&alone).filter(|((other, _), _)| !other.touches(path));
                for ((other, _), alone) in others {
                    let both = told(&document, &[(path, kind.clone()), wrong(other)]);
                    let case = format!("{name}: {path} {kind:?}, {other}: {both:#?}");
                    assert!(both.is_subset(&(alone | &without)), "{case}");
                    assert!(both.is_superset(alone), "{case}");
                }
            }
        }
    }
}

#[track_caller]
fn check(spec: &str, expected: &[&str]) {
    let mistakes = Recipe::parse(&with_spec(spec)).err();
    let told = mistakes.iter().flat_map(|mistakes| mistakes.iter());
    assert_eq!(told.map(ToString::to_string).collect::<Vec<_>>(), expected, "{spec}");
}

#[test]
fn mistakes_of_a_sweep_are_told_by_their_lines() {
    check(
        "  study:
    sweep:
      command:
        arguments: [python3, train.py, \"--lr={lr}\", \"--width={widht}\"]
      parameters:
        lr: {log_uniform: [0.1, 0.01]}
        width: {choise: [64, 128]}
      serch: {random: {trials: 20}}
      metric: {name: loss}
      seeds: [0, 1, one]
  resources: {gpu: 1, memory: 8}
  retries: {infrastructure: 500}
  limits: {trial_time: 2 hours}
",
        &[
            "spec.study.sweep.command.arguments[3] (line 8, column 53): `{widht}` is no parameter\n\
             hint: known: lr, width, seed; a brace itself is written {{ or }}",
            "spec.study.sweep.parameters.lr.log_uniform (line 10, column 27): the lower bound 0.1 is \
             not below the upper bound 0.01\n\
             hint: bounds are written [low, high]",
            "spec.study.sweep.parameters.width (line 11, column 17): unknown name `choise`\n\
             hint: did you mean `choice`?",
            "spec.study.sweep (line 12, column 7): unknown key `serch`\n\
             hint: did you mean `search`?",
            "spec.study.sweep.metric (line 13, column 15): the key `goal` is missing",
            "spec.study.sweep.seeds[2] (line 14, column 21): expected a whole number, found the text \
             \"one\"",
            "spec.resources (line 15, column 15): unknown key `gpu`\nhint: did you mean `gpus`?",
            "spec.resources.memory (line 15, column 31): needs a unit\n\
             hint: write for example 8GiB",
            "spec.retries.infrastructure (line 16, column 29): must be from 0 to 100, found 500",
            "spec.limits.trial_time (line 17, column 24): unknown unit \"hours\"\n\
             hint: known: ms, s, m, h, d",
        ],
    );
}

#[test]
fn mistakes_of_a_training_are_told_by_their_lines() {
    check(
        "  study:
    train:
      data: {files: a, held_out: 1.5}
      model: {width: 100, heads: 3, positions: learned, mlp: relu}
      batch: 0
      optimizer: {kind: adam, momentum: 0.9, beta1: 1, warmup: 0.8, decay: 0.5}
      learning_rates: [1e-3, -1, 1e-3]
  members: 2
  labels: [a]
",
        &[
            "spec.study.train (line 7, column 7): the key `length` is missing",
            "spec.study.train.data.held_out (line 7, column 34): must be above 0 and below 1, found \
             1.5",
            "spec.study.train.model.width (line 8, column 22): must be a multiple of the heads, 3, \
             found 100",
            "spec.study.train.model.mlp (line 8, column 62): unknown name `relu`\n\
             hint: did you mean `gelu`?",
            "spec.study.train.batch (line 9, column 14): must be from 1 to 65536, found 0",
            "spec.study.train.optimizer.kind (line 10, column 25): unknown name `adam`\n\
             hint: did you mean `adamw`?",
            "spec.study.train.optimizer.beta1 (line 10, column 53): must be at least 0 and below 1, \
             found 1",
            "spec.study.train.optimizer.decay (line 10, column 76): warmup 0.8 and decay 0.5 are \
             more than all steps\n\
             hint: both are shares of the steps; their sum is at most 1",
            "spec.study.train.learning_rates[1] (line 11, column 30): must be above 0, found -1",
            "spec.study.train.learning_rates[2] (line 11, column 34): 0.001 is there twice",
            "spec.labels (line 13, column 11): expected a section of keys and values, found a list",
        ],
    );
}

#[test]
fn mistakes_are_told_also_where_the_study_is_missing() {
    check(
        "  resorces: {}\n  priority: 5000\n  colour: red\n  limits: {trials: 0, trial_time: 5}\n",
        &[
            "spec (line 5, column 3): unknown key `resorces`\nhint: did you mean `resources`?",
            "spec (line 5, column 3): the key `study` is missing",
            "spec.priority (line 6, column 13): must be from -1000 to 1000, found 5000\n\
             hint: a higher one goes first; 0 is usual",
            "spec (line 7, column 3): unknown key `colour`\n\
             hint: known: `study`, `resources`, `alternatives`, `labels`, `members`, `priority`, \
             `weight`, `retries`, `checkpoint`, `hang`, `limits`",
            "spec.limits.trials (line 8, column 20): must be at least 1, found 0\n\
             hint: leave the key out for no limit",
            "spec.limits.trial_time (line 8, column 35): needs a unit\nhint: write for example 5s",
        ],
    );
}

// Goal: where a default stands for what cannot be read, nothing is compared with the default.
#[test]
fn what_only_follows_from_a_mistake_is_not_told() {
    let many = "choice: [1, 2, 3, 4, 5, 6, 7, 8, 9]";
    let grid = format!("a: {{{many}}}, b: {{{many}}}, c: {{{many}}}, d: {{{many}}}, e: {{{many}}}");
    for (spec, only) in [
        (
            "  study: {sweep: {command: [x], noop: {}, search: grid, metric: {name: a, goal: minimize}, \
             early_stopping: {asha: {min_steps: 1, max_steps: 9}}}}\n  members: 2\n  resources: {}\n",
            "spec.study.sweep.command",
        ),
        (
            "  study: {sweep: {command: [x], noop: {}, search: grid}}\n  members: 2\n",
            "spec.study.sweep.command",
        ),
        (
            "  study: {sweep: {command: [x], noop: {}, search: grid}}\n  resources: {}\n",
            "spec.study.sweep.command",
        ),
        (
            "  study: {sweep: {comand: {arguments: [x]}, search: grid, metric: null}}\n",
            "unknown key `comand`",
        ),
        ("  study: {trian: {length: {steps: 9}}}\n  members: 2\n", "unknown name `trian`"),
        (
            "  study: {train: {length: {steps: 9}, batch: x}}\n  members: 20\n",
            "spec.study.train.batch",
        ),
        (
            "  study: {grpo: {problems: {addition: {digits: 2}}, completion_tokens_max: 40, model: \
             {sequence: x}}}\n",
            "spec.study.grpo.model.sequence",
        ),
        (
            "  study: {grpo: {problems: {addition: {digits: 1}}, completion_tokens_max: x, model: \
             {sequence: 7}}}\n",
            "spec.study.grpo.completion_tokens_max",
        ),
        (
            "  study: {grpo: {problems: {addition: {digits: 2}}, policy: {prompts: x, rollouts: \
             2000}}}\n",
            "spec.study.grpo.policy.prompts",
        ),
        (
            "  study: {sweep: {command: {arguments: [x]}, search: grid, metric: {name: a, goal: \
             minimize}, early_stopping: {hyperband: {min_steps: 9, max_steps: 20, eta: x}}}}\n",
            "spec.study.sweep.early_stopping.hyperband.eta",
        ),
        (
            "  study: {sweep: {command: {arguments: [x]}, search: grid, metric: null, parameters: \
             {a: {choice: [[], '']}}}}\n",
            "spec.study.sweep.parameters.a.choice[0]",
        ),
        (
            &format!(
                "  study: {{sweep: {{command: {{arguments: [x]}}, search: rndom, parameters: {{{grid}}}, \
                 metric: {{name: a, goal: minimize}}, early_stopping: {{asha: {{min_steps: 1, \
                 max_steps: 9}}}}}}}}\n"
            ),
            "unknown name `rndom`",
        ),
    ] {
        let mistakes = Recipe::parse(&with_spec(spec)).unwrap_err();
        let [mistake] = mistakes.iter().as_slice() else { panic!("{spec}: {mistakes}") };
        assert!(mistake.to_string().contains(only), "{spec}: {mistake}");
    }
}

#[test]
fn several_mistakes_are_one_text_with_each_hint_below_its_mistake() {
    let text = with_spec("  study: {noop: 1}\n  priority: x\n  weight: y\n");
    let expected = "\
spec.study (line 5, column 11): unknown name `noop`
  hint: known: `isoflop`, `train`, `grpo`, `sweep`
spec.priority (line 6, column 13): expected a whole number, found the text \"x\"
spec.weight (line 7, column 11): expected a number, found the text \"y\"";
    assert_eq!(Recipe::parse(&text).unwrap_err().to_string(), expected);
}

#[test]
fn a_recipe_that_is_wrong_everywhere_gives_a_limited_number_of_mistakes() {
    let values = "[], ".repeat(50_000);
    let keys: String = (0..10_000).map(|key| format!("  key{key}: 1\n")).collect();
    let rates = "-1, ".repeat(50);
    for text in [
        with_spec(&format!("  study: {{sweep: {{parameters: {{a: {{choice: [{values}]}}}}}}}}\n")),
        with_spec(&keys),
        with_spec(&format!("  study: {{train: {{learning_rates: [{rates}]}}}}\n")),
    ] {
        let mistakes = Recipe::parse(&text).unwrap_err();
        assert_eq!(mistakes.iter().len(), MISTAKES_MAX);
        assert!(mistakes.are_cut());
    }
}

/// Changes the value that `chosen` points at: its kind, its key, or the keys beside it.
fn damage(document: &mut Node, chosen: prop::sample::Index, how: usize) {
    let values = values_of(document);
    if values.is_empty() {
        return;
    }
    let (path, kind) = &values[chosen.index(values.len())];
    let kinds = [
        unreadable(document),
        Kind::Nothing,
        Kind::Bool(true),
        Kind::Integer(-1),
        Kind::Number(f64::NAN),
        Kind::Text("asha".to_owned()),
        Kind::List(Vec::new()),
    ];
    let mut changed = kind.clone();
    match (how.checked_sub(kinds.len()), &mut changed) {
        (None, changed) => *changed = kinds[how].clone(),
        (Some(0), Kind::Section(entries)) => entries.truncate(entries.len() / 2),
        (Some(_), Kind::Section(entries)) => {
            for (key, _, _) in entries {
                key.push('s');
            }
        }
        (Some(_), _) => {}
    }
    set(document, path, changed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_is_wrong_reading_ends_with_sorted_mistakes(
        recipe in any::<prop::sample::Index>(),
        damages in proptest::collection::vec((any::<prop::sample::Index>(), 0..9usize), 1..40),
    ) {
        thread_local! {
            static DOCUMENTS: Vec<(String, Node)> = documents();
        }
        let mut document = DOCUMENTS.with(|all| all[recipe.index(all.len())].1.clone());
        for (chosen, how) in damages {
            damage(&mut document, chosen, how);
        }
        if let Err(mistakes) = Recipe::read(document) {
            let places: Vec<_> = mistakes.iter().map(|mistake| mistake.place.unwrap()).collect();
            prop_assert!((1..=MISTAKES_MAX).contains(&places.len()));
            prop_assert!(places.is_sorted_by_key(|place| (place.line, place.column)));
            prop_assert!(mistakes.iter().all(|mistake| !mistake.message.is_empty()));
        }
    }
}
