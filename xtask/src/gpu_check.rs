//! `cargo xtask gpu-check`: one folder with everything that a machine with a GPU needs to check
//! what only a card can show. That machine has PyTorch 2.11 for CUDA 13, and neither Rust nor a
//! network; `benches/gpu/README.md` says how the folder is used.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::libtorch::{self, Libtorch};
use crate::terminal::say;
use crate::workspace::{Workspace, require_cxx_compiler, run};

/// Most bytes of the folder, so that it can be carried, over a slow line and with other things.
const PACK_BYTES_MAX: u64 = 58 << 20;
/// The programs of a user, which the check runs.
const PROGRAMS: [&str; 3] = ["brine", "brine-agent", "brine-agent-keeper"];
/// Recipes that the check runs as they are.
const RECIPES: [&str; 1] = ["isoflop-h200.yaml"];
/// Folders of the programs that have the tests of the kernels, and of the trainer.
const KERNELS: &str = "kernels";
const TRAINER: &str = "trainer";
/// Folder of the kernels' examples, which measure them.
const EXAMPLES: &str = "examples";
/// The scripts' tests stay here.
const TEST_PREFIX: &str = "test_";

/// Builds everything and packs it into `target/gpu-check`.
///
/// # Errors
/// A build fails, a file is missing, or the folder is too large.
pub(crate) fn gpu_check(workspace: &Workspace) -> Result<ExitCode> {
    require_cxx_compiler()?;
    let libtorch = libtorch::ready(&workspace.root)?;
    workspace.build_programs(&libtorch)?;
    let mut built = programs(workspace, &libtorch, "brine-kernels", &[], KERNELS)?;
    let trainers = ["--lib", "--test", "train"];
    built.extend(programs(workspace, &libtorch, "brine-trainer", &trainers, TRAINER)?);
    let pack = workspace.root.join("target/gpu-check");
    if pack.exists() {
        fs::remove_dir_all(&pack).context("cannot empty target/gpu-check")?;
    }
    let bin = pack.join("bin");
    for folder in [KERNELS, TRAINER, EXAMPLES] {
        fs::create_dir_all(bin.join(folder)).context("cannot create target/gpu-check")?;
    }
    for name in PROGRAMS {
        strip(&workspace.program(name), &bin.join(name))?;
    }
    for Built { folder, name, path } in built {
        strip(&path, &bin.join(folder).join(name))?;
    }
    copy_scripts(&workspace.root.join("benches/gpu"), &pack)?;
    fs::create_dir(pack.join("recipes")).context("cannot create a folder for the recipes")?;
    for name in RECIPES {
        copy(&workspace.root.join("recipes").join(name), &pack.join("recipes").join(name))?;
    }
    say(&contents(&sizes(&pack)?)?);
    say("packed into target/gpu-check; there: bash run.sh OUT");
    Ok(ExitCode::SUCCESS)
}

/// A program that tests or measures.
#[derive(Debug, PartialEq, Eq)]
struct Built {
    /// Where it goes.
    folder: &'static str,
    name: String,
    path: PathBuf,
}

/// The tests of `package`, which go to the folder `tests` and compare what the GPU does with the
/// processor, and its examples; only `targets` where there are some.
fn programs(
    workspace: &Workspace,
    libtorch: &Libtorch,
    package: &str,
    targets: &[&str],
    tests: &'static str,
) -> Result<Vec<Built>> {
    let mut cargo = workspace.cargo(libtorch);
    cargo.args(["test", "--release", "--package", package, "--no-run"]).args(targets);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests of {package} were not built ({})", output.status);
    let programs = built(&String::from_utf8_lossy(&output.stdout), tests);
    let has_tests = programs.iter().any(|program| program.folder == tests);
    ensure!(has_tests, "cargo names no test program of {package}");
    Ok(programs)
}

/// The tests, for the folder `tests`, and examples in cargo's messages, one JSON object per line.
fn built(messages: &str, tests: &'static str) -> Vec<Built> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = |message: Value| {
        let target = &message["target"];
        let is_example = target["kind"].as_array()?.iter().any(|kind| kind == "example");
        let folder = match (message["profile"]["test"].as_bool()?, is_example) {
            (true, _) => tests,
            (false, true) => EXAMPLES,
            (false, false) => return None,
        };
        let name = target["name"].as_str()?.to_owned();
        let path = PathBuf::from(message["executable"].as_str()?);
        Some(Built { folder, name, path })
    };
    messages.filter_map(program).collect()
}

/// Copies a program without what only a debugger reads, which is most of it.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    let status = run(strip.arg("-o").arg(to).arg(from).stdin(Stdio::null()))
        .context("hint: apt-get install binutils")?;
    ensure!(status.success(), "strip failed on {} ({status})", from.display());
    Ok(())
}

fn copy_scripts(from: &Path, to: &Path) -> Result<()> {
    let read = || format!("cannot read {}", from.display());
    for entry in fs::read_dir(from).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if let (true, Some(name)) = (is_script(&path), path.file_name()) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Whether a file of `benches/gpu` is needed on the machine with the GPU.
fn is_script(path: &Path) -> bool {
    let is_test = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(TEST_PREFIX.as_bytes()));
    let ending = path.extension().and_then(OsStr::to_str);
    !is_test && ending.is_some_and(|ending| ["py", "sh"].contains(&ending))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// Every file below `folder` with its length in bytes, sorted by name.
fn sizes(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut sizes = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let read = || format!("cannot read {}", next.display());
        for entry in fs::read_dir(&next).with_context(read)? {
            let entry = entry.with_context(read)?;
            let metadata = entry.metadata().with_context(read)?;
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap_or(&path);
            sizes.push((name.display().to_string(), metadata.len()));
        }
    }
    sizes.sort();
    Ok(sizes)
}

/// What is in the folder, for people.
///
/// # Errors
/// It is too large to be carried.
fn contents(sizes: &[(String, u64)]) -> Result<String> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let total: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
    if total > PACK_BYTES_MAX {
        let largest = sizes.iter().max_by_key(|(_, bytes)| bytes);
        let (name, bytes) = largest.context("there is no file")?;
        bail!(
            "target/gpu-check has {:.1} MiB and may have {:.0}; its largest file is {name} with \
             {:.1} MiB",
            mib(total),
            mib(PACK_BYTES_MAX),
            mib(*bytes)
        );
    }
    let lines = sizes.iter().map(|(name, bytes)| format!("{:8.2} MiB  {name}\n", mib(*bytes)));
    Ok(format!("{}{:8.2} MiB  in all", lines.collect::<String>(), mib(total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_tests_and_examples_are_taken_from_cargos_messages() {
        let artifact = |name: &str, kind: &str, is_test: bool, executable: Value| {
            let target = json!({"name": name, "kind": [kind]});
            let profile = json!({"test": is_test});
            json!({"target": target, "profile": profile, "executable": executable}).to_string()
        };
        let messages = [
            artifact("anyhow", "lib", false, Value::Null),
            artifact("tool", "bin", false, "/t/tool".into()),
            artifact("kernels", "lib", true, "/t/kernels-1".into()),
            "not JSON".to_owned(),
            artifact("bandwidth", "example", false, "/t/bandwidth-3".into()),
            artifact("parity", "test", true, "/t/parity-2".into()),
            json!({"reason": "build-finished", "success": true}).to_string(),
        ];
        let program = |folder, name: &str, path: &str| {
            let (name, path) = (name.to_owned(), path.into());
            Built { folder, name, path }
        };
        let expected = [
            program(KERNELS, "kernels", "/t/kernels-1"),
            program(EXAMPLES, "bandwidth", "/t/bandwidth-3"),
            program(KERNELS, "parity", "/t/parity-2"),
        ];
        assert_eq!(built(&messages.join("\n"), KERNELS), expected);
    }

    #[test]
    fn scripts_are_packed_and_their_tests_are_not() {
        for (name, expected) in [
            ("check.py", true),
            ("run.sh", true),
            ("test_figures.py", false),
            ("README.md", false),
            ("__pycache__", false),
        ] {
            assert_eq!(is_script(&Path::new("benches/gpu").join(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_folder_that_is_too_large_is_refused_with_its_largest_file() {
        let sizes = |bytes| [("bin/brine".to_owned(), bytes), ("run.sh".to_owned(), 1 << 20)];
        let listed = contents(&sizes(57 << 20)).unwrap();
        assert!(listed.ends_with("58.00 MiB  in all"), "{listed}");
        let error = contents(&sizes((57 << 20) + 1)).unwrap_err().to_string();
        assert!(error.contains("bin/brine with 57.0 MiB"), "{error}");
    }

    #[test]
    fn the_folder_is_measured_with_all_that_is_below() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("run.sh"), "12").unwrap();
        fs::write(folder.path().join("bin/brine"), "123").unwrap();
        let expected = [("bin/brine".to_owned(), 3), ("run.sh".to_owned(), 2)];
        assert_eq!(sizes(folder.path()).unwrap(), expected);
    }

    // Goal: the table that the machine with the GPU writes is right; nobody there would notice.
    #[test]
    fn the_scripts_pass_their_own_tests() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("benches");
        let mut tests = Command::new("python3");
        tests.args(["-B", "-m", "unittest", "discover", "gpu"]).current_dir(root);
        let output = tests.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !words.contains("Ran 0 tests"), "{words}");
    }
}
