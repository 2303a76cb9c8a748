//! `cargo xtask test`: everything that must hold before a change is merged. CI calls only this.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::chaos;
use crate::fuzz;
use crate::libtorch::{self, Libtorch};
use crate::terminal::say;
use crate::workspace::{Workspace, require_cxx_compiler, run, succeeds};

/// `brine` exits with this code when the user's input is wrong. A recipe that makes it crash has
/// another one, and must not pass for refused.
const USER_ERROR: i32 = 1;

/// What every check may look at.
struct Ground<'a> {
    workspace: &'a Workspace,
    libtorch: Libtorch,
}

/// Says in a few words what was found, or why it is not good.
type Check = fn(&Ground) -> Result<String>;

/// All are run, also after a failure, so that one run shows everything there is to repair.
const CHECKS: [(&str, Check); 7] = [
    ("format", check_format),
    ("clippy", check_clippy),
    ("tests", check_tests),
    ("documentation", check_documentation),
    ("recipes", check_recipes),
    ("fuzz", check_fuzz),
    ("chaos", check_chaos),
];

/// Cycles of the chaos: enough for every kind of fault, and over in less than three minutes.
const CHAOS_CYCLES: u64 = 30;

/// Inputs for each reader: some seconds, and past what the first valid file leads to.
const FUZZ_INPUTS: u32 = 20_000;

/// Runs every check and prints one line for each at the end.
///
/// # Errors
/// When a tool is missing, libtorch cannot be had, or the programs cannot be built: then no check
/// would say anything new.
pub(crate) fn test(workspace: &Workspace) -> Result<ExitCode> {
    require_component("fmt", "rustfmt")?;
    require_component("clippy", "clippy")?;
    require_cxx_compiler()?;
    let libtorch = libtorch::ready(&workspace.root)?;
    let start = now();
    // First, because the tests of one package start the programs of another.
    workspace.build_programs(&libtorch)?;
    let mut lines = vec![summary_line("build", start.elapsed(), &Ok(String::new()))];
    let ground = Ground { workspace, libtorch };
    let mut failures = 0;
    for (name, check) in CHECKS {
        say(&format!("== {name}"));
        let start = now();
        let result = check(&ground);
        failures += usize::from(result.is_err());
        lines.push(summary_line(name, start.elapsed(), &result));
    }
    say("");
    lines.iter().for_each(|line| say(line));
    if failures > 0 {
        say(&format!("{failures} of {} checks failed", CHECKS.len()));
        return Ok(ExitCode::FAILURE);
    }
    say("all checks passed");
    Ok(ExitCode::SUCCESS)
}

fn check_format(ground: &Ground) -> Result<String> {
    cargo(ground, &["fmt", "--all", "--check"])
}

fn check_clippy(ground: &Ground) -> Result<String> {
    cargo(ground, &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn check_documentation(ground: &Ground) -> Result<String> {
    let mut doc = ground.workspace.cargo(&ground.libtorch);
    let mut flags = env::var_os("RUSTDOCFLAGS").unwrap_or_default();
    flags.push(" -D warnings");
    doc.args(["doc", "--release", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", flags);
    passed(run(&mut doc)?)
}

/// Runs the unit, integration and documentation tests of every crate. The runner's output passes
/// through; its closing lines are repeated at the end, where they are seen.
fn check_tests(ground: &Ground) -> Result<String> {
    let mut tests = ground.workspace.cargo(&ground.libtorch);
    tests
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .env("LD_LIBRARY_PATH", library_path(&ground.libtorch)?)
        .stdout(Stdio::piped());
    if ground.libtorch.has_nvrtc() {
        // Without it a test of kernels reports that it was skipped; with it, it must compile them.
        tests.env("BRINE_REQUIRE_NVRTC", "1");
    } else {
        say("no NVRTC beside libtorch: that CUDA kernels compile is not checked");
    }
    let mut child = tests.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no standard output")?;
    let closing = pass_through(BufReader::new(output), io::stdout().lock())
        .context("cannot read the tests' output")?;
    let status = child.wait().context("cannot wait for cargo")?;
    closing.iter().for_each(|line| say(line));
    let total = closing.iter().filter_map(|line| Counts::parse(line)).fold(Counts::default(), add);
    ensure!(status.success(), "{total}; cargo test ended with {status}");
    ensure!(total.passed > 0, "cargo test ran no test at all");
    Ok(total.to_string())
}

fn check_fuzz(ground: &Ground) -> Result<String> {
    fuzz::briefly(ground.workspace, &ground.libtorch, FUZZ_INPUTS)
}

/// Every recipe that we ship must be valid, and every one in `recipes/invalid` must be refused.
fn check_recipes(ground: &Ground) -> Result<String> {
    let folder = ground.workspace.root.join("recipes");
    let (mut valid, invalid) = (recipes_in(&folder)?, recipes_in(&folder.join("invalid"))?);
    valid.extend(recipes_in(&folder.join("bench"))?);
    let mut wrong = 0;
    for (recipes, expected) in [(&valid, 0), (&invalid, USER_ERROR)] {
        for recipe in recipes {
            wrong += usize::from(!ends_with(ground, recipe, expected)?);
        }
    }
    ensure!(wrong == 0, "{wrong} recipes are not what their folder says; see above");
    Ok(format!("{} valid, {} refused", valid.len(), invalid.len()))
}

/// The programs survive faults. Each time with a new seed, which an error names.
fn check_chaos(ground: &Ground) -> Result<String> {
    let programs = ground.workspace.programs();
    let options =
        chaos::Options { cycles: CHAOS_CYCLES, seed: None, minutes: None, programs: None };
    chaos::chaos(programs, &options)
}

/// Whether `brine validate` ends with `expected`; otherwise shows what it said.
fn ends_with(ground: &Ground, recipe: &Path, expected: i32) -> Result<bool> {
    let brine = ground.workspace.program("brine");
    let output = Command::new(&brine)
        .arg("validate")
        .arg(recipe)
        .current_dir(&ground.workspace.root)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", brine.display()))?;
    if output.status.code() == Some(expected) {
        return Ok(true);
    }
    say(&format!(
        "{}: `brine validate` ended with {}, not with exit status {expected}\n{}",
        recipe.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    ));
    Ok(false)
}

fn recipes_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut recipes: Vec<PathBuf> = entries
        .with_context(|| format!("cannot read {}", folder.display()))?
        .iter()
        .map(fs::DirEntry::path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    recipes.sort();
    ensure!(!recipes.is_empty(), "{} holds no recipe", folder.display());
    Ok(recipes)
}

fn cargo(ground: &Ground, arguments: &[&str]) -> Result<String> {
    passed(run(ground.workspace.cargo(&ground.libtorch).args(arguments))?)
}

fn passed(status: std::process::ExitStatus) -> Result<String> {
    ensure!(status.success(), "ended with {status}; see above");
    Ok(String::new())
}

/// Test programs are started by cargo, which does not know libtorch's folders.
fn library_path(libtorch: &Libtorch) -> Result<OsString> {
    let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = libtorch.library_folders().into_iter().chain(env::split_paths(&inherited));
    env::join_paths(folders.filter(|folder| !folder.as_os_str().is_empty()))
        .context("LD_LIBRARY_PATH cannot hold a folder with a colon in its name")
}

/// Copies the tests' output line by line and returns the closing line of every test program.
fn pass_through(mut output: impl BufRead, mut terminal: impl Write) -> io::Result<Vec<String>> {
    let mut closing = Vec::new();
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        terminal.write_all(&line)?;
        terminal.flush()?;
        let text = String::from_utf8_lossy(&line);
        if Counts::parse(&text).is_some() {
            closing.push(text.trim_end().to_owned());
        }
        line.clear();
    }
    Ok(closing)
}

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn parse(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |word: &str| {
            let mut parts = numbers.split("; ").filter_map(|part| part.trim().split_once(' '));
            parts.find(|(_, name)| *name == word)?.0.parse().ok()
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            ignored: number("ignored")?,
        })
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

fn add(a: Counts, b: Counts) -> Counts {
    Counts {
        passed: a.passed + b.passed,
        failed: a.failed + b.failed,
        ignored: a.ignored + b.ignored,
    }
}

fn summary_line(name: &str, took: Duration, result: &Result<String>) -> String {
    let seconds = took.as_secs_f64();
    let line = match result {
        Ok(found) => format!("{name:<14} ok     {seconds:7.1} s  {found}"),
        Err(error) => format!("{name:<14} FAILED {seconds:7.1} s  {error:#}"),
    };
    line.trim_end().to_owned()
}

fn require_component(command: &str, component: &str) -> Result<()> {
    if !succeeds(Command::new("cargo").args([command, "--version"])) {
        bail!("`cargo {command}` does not work\nhint: rustup component add {component}");
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "says how long each check took; decides nothing")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_closing_line_is_counted_and_other_lines_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; \
                    0 filtered out; finished in 0.10s";
        let counts = Counts { passed: 12, failed: 3, ignored: 1 };
        assert_eq!(Counts::parse(line), Some(counts));
        for other in ["test core::works ... ok", "test result: unknown", "running 12 tests", ""] {
            assert_eq!(Counts::parse(other), None, "{other}");
        }
    }

    #[test]
    fn closing_lines_are_collected_among_output_that_is_not_text() {
        let output = b"\xff\xfe\ntest result: ok. 1 passed; 0 failed; 0 ignored; x\nend";
        let mut terminal = Vec::new();
        let closing = pass_through(&output[..], &mut terminal).unwrap();
        assert_eq!(terminal, output);
        assert_eq!(closing, ["test result: ok. 1 passed; 0 failed; 0 ignored; x"]);
    }

    #[test]
    fn a_folder_without_recipes_is_an_error_because_nothing_was_checked() {
        let folder = tempfile::tempdir().unwrap();
        assert!(recipes_in(folder.path()).is_err());
        fs::write(folder.path().join("b.yaml"), "").unwrap();
        fs::write(folder.path().join("a.yaml"), "").unwrap();
        fs::write(folder.path().join("a.py"), "").unwrap();
        let recipes = recipes_in(folder.path()).unwrap();
        assert_eq!(recipes, [folder.path().join("a.yaml"), folder.path().join("b.yaml")]);
    }
}
