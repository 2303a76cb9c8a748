//! What no file may contain, and how long it may be.

use crate::check;
use crate::source::{SourceFile, files};

/// A file that one person can hold in mind.
const FILE_LINES_MAX: usize = 500;

/// Two files side by side on one screen; rustfmt leaves long texts and comments alone.
const LINE_CHARACTERS_MAX: usize = 100;

/// Every kind of file that a person writes here.
const TEXTS: &[&str] =
    &[".rs", ".cu", ".proto", ".py", ".ts", ".html", ".css", ".toml", ".yaml", ".md", ".ci/run"];

/// Files whose lines are code. Tables in documents and inline tables in TOML may be wider.
const CODE: &[&str] = &[".rs", ".cu", ".proto", ".py", ".ts", ".ci/run"];

/// Not in the code of a Rust file; comments and texts may speak of it.
const FORBIDDEN_IN_CODE: [(&str, &str); 6] = [
    ("todo!", "finish it, or leave the whole branch out"),
    ("unimplemented!", "finish it, or leave the whole branch out"),
    ("dbg!", "remove it, or log a field with tracing"),
    ("#[ignore", "make the test run everywhere, or print why it cannot and count that"),
    ("allow(dead_code", "delete what nobody calls"),
    ("#![allow", "use #[expect(..., reason = \"...\")] at the smallest place"),
];

/// Nowhere: paths of the machine on which something was written, and notes to oneself.
const FORBIDDEN_IN_TEXT: [(&str, &str); 9] = [
    (concat!("/", "work/"), "use a path relative to the repository or the user's own"),
    (concat!("/", "root/"), "use a path relative to the repository or the user's own"),
    (concat!("/", "home/"), "use a path relative to the repository or the user's own"),
    (concat!("/", "tmp/"), "use the tempfile crate, or an example path such as `data/`"),
    (concat!("py", "pi.org"), "the user's own pip settings say where packages come from"),
    (concat!("static.crates", ".io"), "the user's own cargo settings say where crates come from"),
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "do it, or open an issue"),
    (concat!("TE", "MP\n"), "finish the file"),
];

#[test]
fn files_are_short() {
    let files = files(&[".rs", ".cu", ".py", ".ts"]);
    check("a file is short", files.iter().filter_map(too_long).collect());
}

#[test]
fn lines_are_short() {
    let violations = files(CODE).iter().flat_map(wide_lines).collect();
    check("a line fits beside another one", violations);
}

#[test]
fn code_is_finished() {
    let files = files(&[".rs"]);
    let found = |file: &SourceFile| forbidden(&file.code(), &FORBIDDEN_IN_CODE);
    check("code is finished", files.iter().flat_map(found).collect());
}

#[test]
fn files_know_nothing_of_the_machine_they_were_written_on() {
    let files = files(TEXTS);
    let found = |file: &SourceFile| forbidden(file, &FORBIDDEN_IN_TEXT);
    check("files fit every machine", files.iter().flat_map(found).collect());
}

#[test]
fn each_rule_finds_what_it_is_for() {
    let file = |text: &str| SourceFile { path: "a.rs".to_owned(), text: text.to_owned() };
    assert_eq!(too_long(&file(&"x\n".repeat(FILE_LINES_MAX))), None);
    assert!(too_long(&file(&"x\n".repeat(FILE_LINES_MAX + 1))).is_some());
    assert_eq!(wide_lines(&file(&"é".repeat(LINE_CHARACTERS_MAX))), [""; 0]);
    assert_eq!(wide_lines(&file(&"é".repeat(LINE_CHARACTERS_MAX + 1))).len(), 1);
    assert_eq!(wide_lines(&file(&format!("\"{}\"", "é".repeat(LINE_CHARACTERS_MAX)))), [""; 0]);
    for (needle, advice) in FORBIDDEN_IN_CODE {
        let [comment, code] =
            [format!("// {needle}\n"), format!("\n{needle}(\n")].map(|t| file(&t));
        assert_eq!(forbidden(&comment.code(), &FORBIDDEN_IN_CODE), [""; 0]);
        let expected = format!("a.rs:2: `{needle}`: {advice}");
        assert_eq!(forbidden(&code.code(), &FORBIDDEN_IN_CODE), [expected]);
    }
}

fn too_long(file: &SourceFile) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > FILE_LINES_MAX).then(|| {
        format!("{}: {lines} lines; split it by subject to at most {FILE_LINES_MAX}", file.path)
    })
}

fn wide_lines(file: &SourceFile) -> Vec<String> {
    // A text is not broken for the width's sake: whoever searches for a message finds it whole.
    let without_text = file.lines().filter(|(_, line)| !line.contains('"'));
    let wide = without_text.map(|(number, line)| (number, line.chars().count()));
    wide.filter(|(_, width)| *width > LINE_CHARACTERS_MAX)
        .map(|(line, width)| {
            format!("{}:{line}: {width} characters; break it at {LINE_CHARACTERS_MAX}", file.path)
        })
        .collect()
}

fn forbidden(file: &SourceFile, table: &[(&str, &str)]) -> Vec<String> {
    let mut violations = Vec::new();
    for (needle, advice) in table {
        for (at, _) in file.text.match_indices(needle) {
            let line = 1 + file.text[..at].matches('\n').count();
            violations.push(format!("{}:{line}: `{}`: {advice}", file.path, needle.trim()));
        }
    }
    violations
}
