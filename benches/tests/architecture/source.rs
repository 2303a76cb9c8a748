//! The project's own files, and Rust source without its comments and texts.

use std::fs;
use std::path::{Path, PathBuf};

/// One text file of the project.
pub(crate) struct SourceFile {
    /// Relative to the workspace, with `/` between folders.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    /// Every line with its number, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The same file with comments and the inside of texts blanked out; lines stay where they are.
    pub(crate) fn code(&self) -> Self {
        Self { path: self.path.clone(), text: blank_comments_and_texts(&self.text) }
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("benches is a folder of the workspace")
}

/// All files of the project that end in one of `endings`, in a fixed order.
pub(crate) fn files(endings: &[&str]) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    let relative = |path: &Path| {
        let path = path.strip_prefix(root()).expect("the walk began at the root");
        path.to_string_lossy().into_owned()
    };
    let mut files: Vec<SourceFile> = paths
        .iter()
        .map(|path| (path, relative(path)))
        .filter(|(_, name)| endings.iter().any(|ending| name.ends_with(ending)))
        .map(|(path, name)| SourceFile {
            path: name,
            text: fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "no file ends in any of {endings:?}");
    files
}

/// The Rust files below one of our folders, without those that hold only tests.
pub(crate) fn shipped_files_below(folder: &str) -> Vec<SourceFile> {
    let mut files = files(&[".rs"]);
    let is_test = |path: &str| path.contains("/tests/") || path.ends_with("tests.rs");
    files.retain(|file| file.path.starts_with(folder) && !is_test(&file.path));
    files
}

/// Build folders (cargo marks them, except when it builds elsewhere and only the chores use
/// `target`) and hidden ones hold what is not ours, `.ci` excepted.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    if folder.join("CACHEDIR.TAG").exists() || folder == root().join("target") {
        return;
    }
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().unwrap_or_else(|e| panic!("{name}: {e}"));
        let hidden = name.starts_with('.') && name != ".ci";
        if kind.is_dir() && !hidden && !matches!(&*name, "node_modules" | "__pycache__") {
            collect(&entry.path(), paths);
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
}

/// Replaces what is inside of comments, strings and characters by spaces. The result is as long,
/// in characters and in lines, as `source`.
pub(crate) fn blank_comments_and_texts(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < characters.len() {
        let length = text_length(&characters[at..], characters[..at].last().copied());
        for &character in &characters[at..at + length.max(1)] {
            let keep = length == 0 || character == '\n';
            code.push(if keep { character } else { ' ' });
        }
        at += length.max(1);
    }
    code
}

/// How many characters at the start of `rest` are one comment, string or character; 0 for code.
fn text_length(rest: &[char], before: Option<char>) -> usize {
    let starts = |prefix: &str| prefix.chars().zip(rest).filter(|(a, b)| a == *b).count();
    let begins_with = |prefix: &str| starts(prefix) == prefix.chars().count();
    if begins_with("//") {
        return rest.iter().position(|&c| c == '\n').unwrap_or(rest.len());
    }
    if begins_with("/*") {
        return block_comment_length(rest);
    }
    let inside_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest[0] == 'r' && (!inside_word || before == Some('b')) {
        let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
        if rest.get(1 + hashes) == Some(&'"') {
            return raw_string_length(rest, hashes);
        }
    }
    match rest {
        ['"', ..] => escaped_length(rest, '"'),
        ['\'', '\\', ..] => escaped_length(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn block_comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[char], hashes: usize) -> usize {
    let body = hashes + 2;
    let closes = |at: usize| {
        rest[at] == '"'
            && rest[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    (body..rest.len()).find(|&at| closes(at)).map_or(rest.len(), |at| at + 1 + hashes)
}

fn escaped_length(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

#[test]
fn only_comments_and_texts_are_blanked_out() {
    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(blank_comments_and_texts(source), expected, "{source}");
    }
    check("a // b\nc", "a     \nc");
    check("a /* b /* c */ d */ e", "a                   e");
    check(r#"f("a\"b", c)"#, "f(      , c)");
    check(r##"f(r#"a"b"#, br"\", c)"##, "f(        , b    , c)");
    check("let c: &'static str = x('a', '\\'', '\"');", "let c: &'static str = x(   ,     ,    );");
    check("for_(x)r", "for_(x)r");
    check("\"a\nb\" c", "  \n   c");
    check("/* open", "       ");
}

#[test]
fn build_folders_are_not_searched_and_ours_are() {
    let paths: Vec<String> = files(&[".rs", "run"]).into_iter().map(|file| file.path).collect();
    assert!(paths.contains(&"proto/src/lib.rs".to_owned()), "{paths:?}");
    assert!(paths.contains(&".ci/run".to_owned()), "{paths:?}");
    assert!(!paths.iter().any(|path| path.starts_with("target/")), "{paths:?}");
}
