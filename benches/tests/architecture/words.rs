//! One word per concept: the words that this project does not use in names, and what it says
//! instead.

use crate::check;
use crate::source::{SourceFile, files};

/// A word, singular and lower case, and the one to use.
const WORDS: [(&str, &str); 9] = [
    ("job", "say trial (one unit of work) or experiment (a submitted recipe)"),
    ("task", "say trial, or what the future does"),
    ("worker", "say agent, or thread"),
    ("node", "say agent; node is Kubernetes' word"),
    ("slot", "say device; only a CPU slot has the word"),
    ("handler", "name the function after what it does"),
    ("manager", "name the noun that it owns"),
    ("helper", "name the function after what it does"),
    ("util", "name the subject"),
];

/// Other people's names, which we cannot choose. They are taken out before the words are sought.
const FOREIGN: [(&str, &str); 12] = [
    ("tokio_util", "the crate"),
    ("http_body_util", "the crate"),
    ("hyper_util", "the crate"),
    ("std::task", "the module of std"),
    ("tch::utils", "the module of tch"),
    (".sm_util", "the field of NVML's samples"),
    ("tokio::task", "the module of tokio"),
    ("task::JoinSet", "the module of tokio"),
    ("task::spawn_blocking", "the module of tokio"),
    ("worker_threads", "the setting of tokio's runtime"),
    ("brine_agent_node", "the crate of the agent, named after Kubernetes' nodes"),
    ("agent_node", "the crate of the agent, named after Kubernetes' nodes"),
];

/// Folders whose subject has the word, and why.
const EXEMPT: [(&str, &str, &str); 2] = [
    ("studies/src/recipe/", "node", "the YAML specification's name for a part of a document"),
    ("studies/src/report/", "node", "the XML specification's name for a part of a document"),
];

#[test]
fn names_use_our_words() {
    let files = files(&[".rs"]);
    check("one word per concept", files.iter().flat_map(foreign_words).collect());
}

#[test]
fn words_are_found_inside_of_names_and_only_as_whole_words() {
    #[track_caller]
    fn check(path: &str, code: &str, expected: &[&str]) {
        let file = SourceFile { path: path.to_owned(), text: code.to_owned() };
        let mut found = foreign_words(&file);
        found.iter_mut().for_each(|line| {
            *line = line.split('`').nth(1).expect("a violation quotes its name").to_owned();
        });
        assert_eq!(found, expected, "{path}: {code}");
    }
    check("a.rs", "struct JobQueue; let next_jobs = 1;", &["JobQueue", "next_jobs"]);
    check("a.rs", "fn utility(multitask: u8, nodes: u8) {}", &["nodes"]);
    check("a.rs", "// a job\nlet x = \"worker\";", &[]);
    check("a.rs", "use tokio::task::JoinSet; builder.worker_threads(2)", &[]);
    check("a.rs", "let cpu_slots = CpuSlot(1); let slot = 2;", &["slot"]);
    check("a.rs", "const TASK_MAX: u8 = HTTPHandler;", &["TASK_MAX", "HTTPHandler"]);
    check("studies/src/recipe/a.rs", "struct Node;", &[]);
    check("cli/src/utils.rs", "", &["utils"]);
}

fn foreign_words(file: &SourceFile) -> Vec<String> {
    let mut code = file.code();
    for (name, _) in FOREIGN {
        code.text = code.text.replace(name, "");
    }
    let stem = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let names = code.lines().flat_map(|(line, text)| {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        text.split(move |c| !is_name(c)).map(move |name| (line, name))
    });
    let mut violations = Vec::new();
    for (line, name) in std::iter::once((0, stem)).chain(names) {
        if let Some(advice) = advice(&file.path, name) {
            violations.push(format!("{}:{line}: `{name}`: {advice}", file.path));
        }
    }
    violations
}

/// What to say instead, if `name` has one of the words in it.
fn advice(path: &str, name: &str) -> Option<&'static str> {
    let words = words_of(name);
    let is_cpu_slot = |at: usize| at > 0 && words[at - 1] == "cpu";
    words.iter().enumerate().find_map(|(at, word)| {
        let singular = word.strip_suffix('s').unwrap_or(word);
        let (word, advice) = WORDS.iter().find(|(unused, _)| *unused == singular)?;
        let exempt = EXEMPT.iter().any(|(folder, w, _)| path.starts_with(folder) && w == word);
        let cpu = *word == "slot" && is_cpu_slot(at);
        (!exempt && !cpu).then_some(*advice)
    })
}

/// `next_HTTPRequest` has the words next, http and request.
fn words_of(name: &str) -> Vec<String> {
    let characters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (at, &character) in characters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| characters[at]);
        let after = characters.get(at + 1).copied();
        let rises = before.is_some_and(char::is_lowercase) && character.is_uppercase();
        let ends_capitals = before.is_some_and(char::is_uppercase)
            && character.is_uppercase()
            && after.is_some_and(char::is_lowercase);
        if character == '_' || rises || ends_capitals {
            words.push(String::new());
        }
        if let (true, Some(word)) = (character != '_', words.last_mut()) {
            word.extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
