use super::reader::absent;
use super::{Path, Policy, RECIPE_BYTES_MAX, Recipe, StudyError, StudySpec, Wanted};
use crate::study::Next;
use proptest::prelude::*;
use proto::{BlobId, BlobRef, Inputs, Placement, Resources, Retries};
use std::path::PathBuf;

pub(super) fn recipes() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes"))
}

/// Name and text of every recipe in `folder`, in order.
pub(super) fn texts_in(folder: PathBuf) -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    let text = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    let mut texts: Vec<_> = yaml.map(text).collect();
    texts.sort();
    texts
}

fn recipe(name: &str) -> Recipe {
    let text = std::fs::read_to_string(recipes().join(name)).unwrap();
    Recipe::parse(&text).unwrap()
}

/// A recipe around the body of `spec`, whose first line is line 5.
pub(super) fn with_spec(spec: &str) -> String {
    format!("apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: a}}\nspec:\n{spec}")
}

const STUDY: &str = "  study: {sweep: {command: {arguments: [x]}, search: grid, metric: {name: l, goal: minimize}}}\n";

fn inputs_of(wanted: &Wanted) -> Inputs {
    let blob = |text: &str| BlobRef {
        blob: BlobId::from_hash(blake3::hash(text.as_bytes())),
        bytes: 10_000_000,
    };
    let name = |file: &String| file.rsplit('/').next().unwrap().to_owned();
    Inputs {
        data: wanted.data.as_ref().map(|_| blob("data")),
        files: wanted.files.iter().map(|file| (name(file), blob(file))).collect(),
    }
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let message = Recipe::parse(text).map(|_| ()).unwrap_err().to_string();
    assert_eq!(message, expected, "{text}");
}

#[test]
fn every_shipped_recipe_is_valid_and_plans_trials() {
    let mut all = texts_in(recipes());
    let benches = texts_in(recipes().join("bench"));
    assert!(all.len() >= 6 && benches.len() >= 3, "the folders were found");
    all.extend(benches);
    for (name, text) in all {
        let recipe = Recipe::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(format!("{}.yaml", recipe.name), name);
        for file in recipe.wanted().files {
            assert!(
                recipes().join(&file).is_file() || name.starts_with("reference"),
                "{name}: {file}"
            );
        }
        let study = recipe.study(&inputs_of(&recipe.wanted())).unwrap();
        match study.next(&[]) {
            Next::Plan { trials, .. } => assert!(!trials.is_empty(), "{name}"),
            Next::PlanRange { count, .. } => {
                assert!(count > 0 && study.trial(count - 1).is_some(), "{name}");
                assert!(study.trial(count).is_none(), "{name}");
            }
            other @ (Next::Stop { .. } | Next::Wait | Next::Complete) => {
                panic!("{name}: {other:?}")
            }
        }
    }
}

#[test]
fn every_invalid_recipe_gives_the_message_in_its_first_lines() {
    let all = texts_in(recipes().join("invalid"));
    assert!(all.len() >= 20, "the folder was found");
    for (name, text) in all {
        let mut lines = text.lines();
        let first = lines.next().and_then(|line| line.strip_prefix("# error: "));
        let mut expected = first.unwrap_or_else(|| panic!("{name}: no message")).to_owned();
        if let Some(hint) = lines.next().and_then(|line| line.strip_prefix("# hint: ")) {
            expected = format!("{expected}\nhint: {hint}");
        }
        let found = Recipe::parse(&text).map(|_| "no error".to_owned());
        assert_eq!(found.unwrap_or_else(|error| error.to_string()), expected, "{name}");
    }
}

#[test]
fn the_reference_writes_every_key_with_its_default() {
    absent::take();
    let reference = recipe("reference.yaml");
    assert_eq!(absent::take(), [""; 0], "keys that the reference lacks");
    let minimal = with_spec("  study: {isoflop: {flop_budgets: [1e10], widths: [16, 32, 64]}}\n");
    let minimal = Recipe::parse(&minimal).unwrap();
    assert_eq!(Recipe { name: "reference".into(), ..minimal.clone() }, reference);
    assert_eq!(minimal.resources, Resources::default());
    assert_eq!(minimal.retries, Retries::default());
    assert_eq!((minimal.checkpoint_every_ms, minimal.trial_time_ms), (None, None));

    absent::take();
    let reference = recipe("reference-sweep.yaml");
    // These sections are in reference.yaml.
    let elsewhere = [
        "resources",
        "alternatives",
        "labels",
        "members",
        "priority",
        "weight",
        "retries",
        "checkpoint",
        "hang",
        "limits",
    ]
    .map(|key| format!("spec.{key}"));
    assert_eq!(absent::take(), elsewhere, "keys that the reference lacks");
    let minimal = with_spec(
        "  study:\n    sweep:\n      command: {arguments: [python3, train.py, \"--width={width}\"]}\n      \
         parameters: {width: {choice: [8, 16]}}\n      search: {random: {trials: 2}}\n      \
         metric: {name: loss, goal: minimize}\n",
    );
    let minimal = Recipe::parse(&minimal).unwrap();
    assert_eq!(Recipe { name: "reference-sweep".into(), ..minimal }, reference);

    absent::take();
    let reference = recipe("reference-grpo.yaml");
    assert_eq!(absent::take(), elsewhere, "keys that the reference lacks");
    let minimal = with_spec("  study: {grpo: {problems: {addition: {digits: 2}}}}\n");
    let minimal = Recipe::parse(&minimal).unwrap();
    assert_eq!(Recipe { name: "reference-grpo".into(), ..minimal }, reference);

    absent::take();
    let reference = recipe("reference-train.yaml");
    assert_eq!(absent::take(), elsewhere, "keys that the reference lacks");
    let minimal = with_spec("  study: {train: {length: {steps: 500}}}\n");
    let minimal = Recipe::parse(&minimal).unwrap();
    assert_eq!(Recipe { name: "reference-train".into(), ..minimal }, reference);
}

#[test]
fn the_reference_writes_every_rule_of_early_stopping_with_its_defaults() {
    let text = std::fs::read_to_string(recipes().join("reference-sweep.yaml")).unwrap();
    let rules: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("#   {")).collect();
    let rules = rules.iter().filter(|rule| rule.contains("max_steps"));
    let defaults = [", eta: 3", ", min_trials: 5"];
    let mut found = Vec::new();
    for rule in rules {
        let with = |rule: &str| {
            let text = text.replace("early_stopping: null", &format!("early_stopping: {{{rule}"));
            Recipe::parse(&text).unwrap()
        };
        absent::take();
        let whole = with(rule);
        let left_out = absent::take();
        assert!(!left_out.iter().any(|key| key.contains("early_stopping")), "{left_out:?}");
        let short = defaults.iter().fold((*rule).to_owned(), |rule, key| rule.replace(key, ""));
        assert_ne!(short, **rule);
        assert_eq!(with(&short), whole);
        found.extend(rule.split(':').next());
    }
    assert_eq!(found, ["asha", "hyperband", "median"]);
}

#[test]
fn common_settings_are_read_with_their_units() {
    let text = with_spec(&format!(
        "{STUDY}  resources: {{gpus: 1, gpu_memory: 20GiB, cpus: 2, memory: 8GiB}}\n  \
         retries: {{infrastructure: 1, trial: 2}}\n  checkpoint: {{every: 1.5s}}\n  \
         limits: {{trial_time: 2h}}\n"
    ));
    let recipe = Recipe::parse(&text).unwrap();
    let resources = Resources {
        gpus: 1,
        gpu_memory_bytes: 20 << 30,
        cpus: 2,
        memory_bytes: 8 << 30,
        ..Resources::default()
    };
    assert_eq!(recipe.resources, resources);
    assert_eq!(recipe.retries, Retries { infrastructure: 1, trial: 2 });
    assert_eq!(recipe.checkpoint_every_ms, Some(1_500));
    assert_eq!(recipe.trial_time_ms, Some(7_200_000));
    let study = recipe.study(&Inputs::default()).unwrap();
    let trial = study.trial(0).unwrap();
    assert_eq!(trial.resources, resources);
    assert_eq!(trial.time_limit_ms, Some(7_200_000));
}

#[test]
fn placement_and_policy_are_read() {
    let text = with_spec(&format!(
        "{STUDY}  resources: {{gpus: 0.25, gpu_memory: 4GiB, extras: {{licence: 2}}}}\n  \
         alternatives: [{{gpus: 1, cpus: 2}}, {{cpus: 16}}]\n  \
         labels: {{topology.kubernetes.io/zone: a}}\n  members: 4\n  priority: -7\n  \
         weight: 0.5\n  \
         limits: {{trials_at_once: 3, trials: 100, gpu_hours: 1.5}}\n"
    ));
    let recipe = Recipe::parse(&text).unwrap();
    let resources = Resources {
        gpu_share_milli: 250,
        gpu_memory_bytes: 4 << 30,
        extras: [("licence".to_owned(), 2)].into(),
        ..Resources::default()
    };
    let placement = Placement {
        alternatives: vec![
            Resources { gpus: 1, cpus: 2, ..Resources::default() },
            Resources { cpus: 16, ..Resources::default() },
        ],
        labels: [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into(),
        members: 4,
    };
    let policy = Policy {
        priority: -7,
        weight: 0.5,
        at_once: Some(3),
        trials: Some(100),
        gpu_hours: Some(1.5),
        flops: None,
    };
    assert_eq!(recipe.policy, policy);
    let trial = recipe.study(&Inputs::default()).unwrap().trial(0).unwrap();
    assert_eq!((trial.resources, trial.placement), (resources, placement));
    for share in 1..1000u32 {
        let text = with_spec(&format!("{STUDY}  resources: {{gpus: 0.{share:03}}}\n"));
        assert_eq!(Recipe::parse(&text).unwrap().resources.gpu_share_milli, share);
    }
    let isoflop = "  study: {isoflop: {flop_budgets: [1e10], widths: [16, 32, 64]}}\n";
    let text = with_spec(&format!("{isoflop}  limits: {{flops: 1e15}}\n"));
    assert_eq!(Recipe::parse(&text).unwrap().policy.flops, Some(1e15));
}

#[test]
fn a_text_that_is_too_large_or_too_deep_is_refused() {
    let ten_megabytes = "a".repeat(10_000_000);
    refused(
        &ten_megabytes,
        "a recipe has at most 1048576 bytes, this text has 10000000\n\
         hint: data and scripts are files that the recipe names",
    );
    for text in [
        "[".repeat(RECIPE_BYTES_MAX),
        "{a: ".repeat(RECIPE_BYTES_MAX / 4),
        "- ".repeat(RECIPE_BYTES_MAX / 2),
        "a\n".repeat(RECIPE_BYTES_MAX / 2),
        format!("[{}]", "1,".repeat(RECIPE_BYTES_MAX / 2 - 2)),
    ] {
        assert!(Recipe::parse(&text).is_err());
    }
}

#[test]
fn aliases_that_explode_are_refused() {
    let mut lines = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
    for level in 1..10 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        lines.push(format!("a{level}: &a{level} [{items}]"));
    }
    let text = lines.join("\n");
    refused(
        &text,
        "line 6, column 10: YAML document too large or too complex: \
         total_replayed_events=200001 > 200000",
    );
}

#[test]
fn the_id_changes_with_what_decides_the_results() {
    let base = with_spec(STUDY);
    let id = |text: &str, inputs: &Inputs| Recipe::parse(text).unwrap().id(inputs);
    let none = Inputs::default();
    let first = id(&base, &none);
    // Ids are stored in journals: they must not change by accident.
    assert_eq!(first.as_str(), "a-f7813309");

    let spelled = base.replace("\n", "   # words\n").replace("search: grid", "search:  'grid'");
    assert_eq!(id(&spelled, &none), first);
    assert_eq!(id(&format!("{base}  checkpoint: {{every: 5s}}\n"), &none), first);
    assert_eq!(id(&format!("{base}  resources: {{cpus: 1, memory: 0B}}\n"), &none), first);

    // The policy decides when trials run, not what they find.
    for policy in ["priority: 9", "weight: 2", "limits: {trials: 5, trials_at_once: 1}"] {
        assert_eq!(id(&format!("{base}  {policy}\n"), &none), first);
    }

    let data = Some(BlobRef { blob: BlobId::from_hash(blake3::hash(b"x")), bytes: 1 });
    let others = [
        id(&base.replace("name: a", "name: b"), &none),
        id(&base.replace("minimize", "maximize"), &none),
        id(&format!("{base}  resources: {{cpus: 2}}\n"), &none),
        id(&format!("{base}  limits: {{trial_time: 1h}}\n"), &none),
        id(&format!("{base}  retries: {{trial: 1}}\n"), &none),
        id(&format!("{base}  labels: {{zone: a}}\n"), &none),
        id(&format!("{base}  members: 2\n"), &none),
        id(&format!("{base}  alternatives: [{{cpus: 8}}]\n"), &none),
        id(&base, &Inputs { data, ..Inputs::default() }),
    ];
    for other in others {
        assert_ne!(other, first);
    }
}

#[test]
fn a_study_without_its_files_says_which_one_is_missing() {
    let sweep = recipe("command-sweep.yaml");
    let error = sweep.study(&Inputs::default()).err().unwrap();
    assert_eq!(error, StudyError::FileMissing("train.py".into()));
    let isoflop = recipe("isoflop-mini.yaml");
    assert!(matches!(isoflop.study, StudySpec::Isoflop(_)));
    let error = isoflop.study(&Inputs::default()).err().unwrap();
    assert_eq!(error, StudyError::DataMissing);
}

#[test]
fn a_key_in_the_middle_of_a_long_word_is_quoted_briefly() {
    let text = format!("{}{}: 1\n", with_spec(STUDY), "k".repeat(500));
    let expected = format!(
        "line 6, column 1: unknown key `{}...`\nhint: known: `apiVersion`, `kind`, `metadata`, `spec`",
        "k".repeat(60)
    );
    refused(&text, &expected);
}

#[test]
fn a_place_is_found_for_a_value_that_is_left_out() {
    let text = with_spec("  study: {isoflop: {flop_budgets: [1e10]}}\n");
    let mistakes = Recipe::parse(&text).unwrap_err();
    let error = mistakes.iter().next().unwrap();
    let at = ["spec", "study", "isoflop", "widths"];
    assert_eq!(error.path, at.iter().fold(Path::default(), |path, key| path.key(key)));
    assert_eq!(error.place.map(|place| place.line), Some(5));
}

/// A shipped recipe with a few characters replaced, removed or repeated.
fn mutated() -> impl Strategy<Value = String> {
    let texts: Vec<String> = texts_in(recipes()).into_iter().map(|(_, text)| text).collect();
    let pieces = proptest::sample::select(vec![
        "",
        " ",
        "\n",
        ":",
        "-",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!str ",
        "'",
        "\"",
        "#",
        "0",
        "-1",
        "1e999",
        ".nan",
        "null",
        "true",
        "9999999999999999999999",
        "\u{0}",
        "ä",
        "<<: ",
        "? ",
        "|\n",
        "\t",
        "---\n",
        "%",
        "2147483648",
        "0.0",
        "1e-300",
    ]);
    let edit = (any::<proptest::sample::Index>(), 0..12usize, pieces);
    let edits = proptest::collection::vec(edit, 1..6);
    (proptest::sample::select(texts), edits).prop_map(|(mut text, edits)| {
        for (at, length, piece) in edits {
            let boundaries: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            if boundaries.is_empty() {
                break;
            }
            let start = at.index(boundaries.len());
            let end = boundaries.get(start + length).copied().unwrap_or(text.len());
            text.replace_range(boundaries[start]..end, piece);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), yaml in "[-a:\\[\\]{}&*!|>'\"%@#, \n0-9.]{0,200}") {
        for text in [text, yaml] {
            prop_assert!(Recipe::parse(&text).is_err());
        }
    }

    #[test]
    fn a_damaged_recipe_is_read_or_refused_but_never_panics(text in mutated()) {
        match Recipe::parse(&text) {
            Ok(recipe) => {
                recipe.id(&Inputs::default());
            }
            Err(mistakes) => prop_assert!(!mistakes.to_string().is_empty()),
        }
    }
}

#[test]
fn a_training_may_have_as_many_members_as_sequences() {
    let text = "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {name: a}\nspec:\n  study:\n    \
                train:\n      batch: 4\n      length: {steps: 9}\n  members: 4\n  \
                resources: {gpus: 1}\n  alternatives: [{cpus: 8}]\n";
    let recipe = Recipe::parse(text).unwrap();
    let study = recipe.study(&inputs_of(&recipe.wanted())).unwrap();
    let Next::Plan { trials, .. } = study.next(&[]) else { panic!("no plan") };
    assert_eq!((trials.len(), trials[0].placement.members), (1, 4));
}
