//! The files that a recipe names: found, read, known by their content, and sent to the coordinator.

use crate::client::Client;
use crate::error::CliError;
use crate::number;
use crate::output::Printer;
use proto::{BlobId, BlobRef, Inputs};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use studies::recipe::{DataWanted, Mistakes, Recipe, RecipeError};

/// Most files of training text; a pattern that matches more is a mistake.
const DATA_FILES_MAX: usize = 100_000;
/// Longest training text: agents keep a copy and map it into memory.
const DATA_BYTES_MAX: u64 = 64 << 30;
/// Longest file of a command; it is a script, not a data set.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are hashed between two looks at the progress bar.
const READ_BYTES: usize = 1 << 20;
/// Shorter text is hashed before anybody could see a bar.
const BAR_FROM_BYTES: u64 = 256 << 20;
/// Folders of the standard library's tree that are not the library itself. Installed packages
/// differ from machine to machine, and distributions ship the tests separately: without both,
/// machines with the same Python have the same text.
const NOT_LIBRARY: [&str; 6] =
    ["site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"];
/// Deepest folder of the standard library; its own is 4.
const FOLDER_DEPTH_MAX: usize = 16;

/// What a recipe's files are, and where their content lies.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// What is submitted.
    pub(crate) inputs: Inputs,
    /// Each content with the files that make it up, in order.
    sources: Vec<(BlobRef, Vec<PathBuf>)>,
    /// Where the training text comes from, in words.
    pub(crate) data_words: Option<String>,
}

/// A recipe with the text it was read from.
pub(crate) struct RecipeFile {
    pub(crate) text: String,
    pub(crate) recipe: Recipe,
    /// Where relative paths of the recipe start.
    folder: PathBuf,
}

impl RecipeFile {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// The file cannot be read, or the recipe is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let text = read_recipe(path)?;
        let recipe = Recipe::parse(&text).map_err(|mistakes| refused(path, &mistakes))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        Ok(Self { text, recipe, folder })
    }

    /// Finds and hashes the recipe's files.
    ///
    /// # Errors
    /// A file is missing, unreadable, empty or too long.
    pub(crate) fn gather(&self, printer: &Printer) -> Result<Gathered, CliError> {
        let wanted = self.recipe.wanted();
        let mut gathered = Gathered::default();
        if let Some(data) = &wanted.data {
            let (files, words) = match data {
                DataWanted::PythonStandardLibrary => standard_library()?,
                DataWanted::Files(patterns) => matching(patterns, &self.folder)?,
            };
            let blob = hash(&files, DATA_BYTES_MAX, printer)?;
            if blob.bytes == 0 {
                return Err(CliError::user(format!("the training text is empty: {words}"))
                    .hint("name files with text in spec.study.*.data.files"));
            }
            gathered.data_words = Some(format!("{words}, {}", number::bytes(blob.bytes)));
            gathered.inputs.data = Some(blob.clone());
            gathered.sources.push((blob, files));
        }
        for name in &wanted.files {
            let path = self.folder.join(name);
            let blob = hash(std::slice::from_ref(&path), FILE_BYTES_MAX, printer)?;
            let file_name = path.file_name().unwrap_or_default();
            let file_name = file_name.to_string_lossy().into_owned();
            gathered.inputs.files.insert(file_name, blob.clone());
            gathered.sources.push((blob, vec![path]));
        }
        Ok(gathered)
    }
}

impl Gathered {
    /// Sends what the coordinator does not have yet.
    ///
    /// # Errors
    /// A file changed or went away since it was hashed, or the coordinator refuses it.
    pub(crate) async fn upload(
        &self,
        client: &mut Client,
        printer: &Printer,
    ) -> Result<(), CliError> {
        for (blob, files) in &self.sources {
            let bar = printer.screen().transfer("sending the recipe's files", blob.bytes);
            let sent = move |bytes| bar.advance(bytes);
            client.put_blob(blob, files.clone(), sent).await?;
        }
        Ok(())
    }
}

/// The text of a recipe's file.
///
/// # Errors
/// It cannot be read, is too long, or is not UTF-8.
pub(crate) fn read_recipe(path: &Path) -> Result<String, CliError> {
    let max = studies::recipe::RECIPE_BYTES_MAX as u64;
    read_text(path, "recipe", max)
        .map_err(|error| error.hint("a recipe is a YAML file; see recipes/reference.yaml"))
}

/// A small text file.
///
/// # Errors
/// It cannot be read, is longer than `bytes_max`, or is not UTF-8.
pub(crate) fn read_text(path: &Path, what: &str, bytes_max: u64) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| CliError::file(format!("read the {what} {}", path.display()), error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(CliError::user(format!(
            "the {what} {} is longer than {}",
            path.display(),
            number::bytes(bytes_max)
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        CliError::user(format!("the {what} {} is not UTF-8 text", path.display())).because(error)
    })
}

/// What is wrong with the recipe at `path`, each mistake after the file's name, and their number
/// where there are several.
pub(crate) fn refused(path: &Path, mistakes: &Mistakes) -> CliError {
    let path = path.display();
    let one = |mistake: &RecipeError| {
        let mut mistake = mistake.clone();
        let hint = mistake.hint.take();
        let error = CliError::user(format!("{path}: {mistake}"));
        hint.into_iter().fold(error, CliError::hint)
    };
    match mistakes.iter().as_slice() {
        [only] => one(only),
        several => {
            let least = if mistakes.are_cut() { "at least " } else { "" };
            let sum = format!("{path} has {least}{} mistakes", several.len());
            CliError::user(sum).sums_up(several.iter().map(one).collect())
        }
    }
}

/// All files that match a pattern, sorted, each once.
fn matching(patterns: &[String], folder: &Path) -> Result<(Vec<PathBuf>, String), CliError> {
    let mut files = BTreeSet::new();
    for pattern in patterns {
        let found = expand(pattern, folder)?;
        if found.is_empty() {
            return Err(CliError::user(format!(
                "no file matches {pattern:?} in {}",
                folder.display()
            ))
            .hint("patterns start at the recipe's folder; ** goes through folders"));
        }
        files.extend(found);
        if files.len() > DATA_FILES_MAX {
            return Err(CliError::user(format!(
                "the patterns {patterns:?} match more than {DATA_FILES_MAX} files"
            ))
            .hint("join them into fewer files"));
        }
    }
    let words = format!("{} of {}", number::plural(files.len(), "file"), patterns.join(", "));
    Ok((files.into_iter().collect(), words))
}

fn expand(pattern: &str, folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let rooted = if Path::new(pattern).is_absolute() {
        pattern.to_owned()
    } else {
        let folder = glob::Pattern::escape(&folder.to_string_lossy());
        format!("{folder}/{pattern}")
    };
    let paths = glob::glob(&rooted).map_err(|error| {
        CliError::user(format!("{pattern:?} is not a pattern of file names")).because(error)
    })?;
    let mut files = Vec::new();
    for path in paths.take(DATA_FILES_MAX + 1) {
        let path = path.map_err(|error| {
            let what = format!("read the folder {}", error.path().display());
            CliError::file(what, error.into())
        })?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// The `.py` files of the Python standard library: real text that is on every machine.
fn standard_library() -> Result<(Vec<PathBuf>, String), CliError> {
    let hint =
        "install python3, or name your own text in the recipe: data: {files: \"corpus/*.txt\"}";
    let script = "import sysconfig; print(sysconfig.get_paths()['stdlib'])";
    let output = Command::new("python3").args(["-I", "-c", script]).output().map_err(|error| {
        CliError::user("cannot run python3, whose standard library is the default training text")
            .because(error)
            .hint(hint)
    })?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !output.status.success() || !folder.is_dir() {
        return Err(CliError::user("python3 does not say where its standard library is")
            .because(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            .hint(hint));
    }
    let mut files = Vec::new();
    walk(&folder, 0, &mut files)
        .map_err(|error| CliError::file(format!("read the folder {}", folder.display()), error))?;
    files.sort();
    let words = format!(
        "the {} of the Python standard library in {}",
        number::plural(files.len(), "file"),
        folder.display()
    );
    Ok((files, words))
}

/// Links are left out: distributions use them for the machine's own settings.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        let name = entry.file_name();
        if kind.is_dir() {
            let is_library = !NOT_LIBRARY.iter().any(|other| name == *other);
            if is_library && depth < FOLDER_DEPTH_MAX {
                walk(&path, depth + 1, files)?;
            }
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "py") {
            files.push(path);
        }
    }
    Ok(())
}

/// The hash and the length of the files' content, one after the other.
fn hash(files: &[PathBuf], bytes_max: u64, printer: &Printer) -> Result<BlobRef, CliError> {
    let failed = |path: &Path| {
        let what = format!("read {}", path.display());
        move |error| CliError::file(what, error)
    };
    let mut total = 0_u64;
    for path in files {
        total += fs::metadata(path).map_err(failed(path))?.len();
    }
    if total > bytes_max {
        let what = match files {
            [one] => one.display().to_string(),
            _many => number::plural(files.len(), "file"),
        };
        return Err(CliError::user(format!(
            "{what}: {} are more than the {} that Brine takes here",
            number::bytes(total),
            number::bytes(bytes_max)
        )));
    }
    let bar = (total > BAR_FROM_BYTES).then(|| printer.screen().transfer("reading", total));
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    for path in files {
        let mut file = fs::File::open(path).map_err(failed(path))?;
        loop {
            let read = file.read(&mut buffer).map_err(failed(path))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            if let Some(bar) = &bar {
                bar.advance(read as u64);
            }
        }
    }
    Ok(BlobRef {
        blob: BlobId::from_hash(hasher.finalize()),
        // What was hashed, also when a file grew meanwhile.
        bytes: hasher.count(),
    })
}

/// The inputs by name with their hashes, for people.
pub(crate) fn describe(inputs: &Inputs) -> BTreeMap<String, String> {
    let text = |blob: &BlobRef| format!("{} ({})", blob.blob, number::bytes(blob.bytes));
    let data = inputs.data.iter().map(|blob| ("data".to_owned(), text(blob)));
    let files = inputs.files.iter().map(|(name, blob)| (name.clone(), text(blob)));
    data.chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputMode;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn patterns_give_every_file_once_in_sorted_order() {
        let folder =
            folder_with(&[("b.txt", "2"), ("a.txt", "1"), ("c/d.txt", "3"), ("e.md", "4")]);
        let patterns = ["*.txt".to_owned(), "**/*.txt".to_owned()];
        let (files, words) = matching(&patterns, folder.path()).unwrap();
        let names: Vec<_> = files
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a.txt", "b.txt", "c/d.txt"]);
        assert_eq!(words, "3 files of *.txt, **/*.txt");
        let blob = hash(&files, 10, &Printer::new(OutputMode::Quiet)).unwrap();
        assert_eq!(blob.bytes, 3);
        assert_eq!(blob.blob, BlobId::from_hash(blake3::hash(b"123")));
    }

    #[test]
    fn a_folder_name_with_brackets_is_not_a_pattern() {
        let folder = folder_with(&[("[x]/a.txt", "1")]);
        let (files, _) = matching(&["*.txt".into()], &folder.path().join("[x]")).unwrap();
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = folder_with(&[("a.txt", "12345")]);
        let printer = Printer::new(OutputMode::Quiet);
        let none = matching(&["*.md".into()], folder.path()).unwrap_err();
        assert!(none.to_string().contains("no file matches \"*.md\""), "{none}");
        let missing = folder.path().join("b.txt");
        let error = hash(std::slice::from_ref(&missing), 10, &printer).unwrap_err();
        assert!(error.to_string().contains("b.txt"), "{error}");
        let long = hash(&[folder.path().join("a.txt")], 4, &printer).unwrap_err();
        assert!(long.to_string().contains("5 B are more than the 4 B"), "{long}");
    }

    #[test]
    fn tests_packages_and_links_are_not_the_standard_library() {
        let folder = folder_with(&[
            ("os.py", ""),
            ("json/decoder.py", ""),
            ("test/test_os.py", ""),
            ("site-packages/x.py", ""),
            ("README", ""),
        ]);
        std::os::unix::fs::symlink(folder.path().join("os.py"), folder.path().join("link.py"))
            .unwrap();
        let mut files = Vec::new();
        walk(folder.path(), 0, &mut files).unwrap();
        files.sort();
        let names: Vec<_> = files
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["json/decoder.py", "os.py"]);
    }
}
