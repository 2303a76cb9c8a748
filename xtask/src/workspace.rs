//! Where the repository and its build folder are, and how cargo is called in them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::libtorch::Libtorch;

/// Variables by which torch-sys would take another libtorch than the one that `LIBTORCH` names.
/// Then the programs would be linked against one and run with the other.
const RIVAL_VARIABLES: [&str; 4] =
    ["LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_STATIC"];

/// The packages whose programs a user runs: `brine` and `brine-agent`.
const PROGRAM_PACKAGES: [&str; 2] = ["brine-cli", "brine-agent-node"];

/// The checked-out repository.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`, absolute.
    pub(crate) root: PathBuf,
    /// Where cargo puts programs of the release profile; follows `CARGO_TARGET_DIR`.
    release: PathBuf,
}

impl Workspace {
    /// Finds the repository that this program was started from by cargo.
    ///
    /// # Errors
    /// When it was not started by cargo, or cargo cannot read the workspace.
    pub(crate) fn open() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .context("this program is started by cargo; run `cargo xtask` in the repository")?;
        let root = package.parent().context("xtask is not inside a workspace")?.to_path_buf();
        let release = target_directory(&root)?.join("release");
        Ok(Self { root, release })
    }

    /// Path of a program that [`Workspace::build_programs`] has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.release.join(name)
    }

    /// The folder of the programs that [`Workspace::build_programs`] has built.
    pub(crate) fn programs(&self) -> &Path {
        &self.release
    }

    /// Builds `brine` and `brine-agent`.
    ///
    /// # Errors
    /// When the build fails; the compiler's own message is above.
    pub(crate) fn build_programs(&self, libtorch: &Libtorch) -> Result<()> {
        let mut build = self.cargo(libtorch);
        build.args(["build", "--release"]);
        build.args(PROGRAM_PACKAGES.iter().flat_map(|name| ["--package", name]));
        let status = run(&mut build)?;
        if !status.success() {
            bail!("the build failed ({status}); the compiler's message is above");
        }
        Ok(())
    }

    /// A cargo command in the repository that builds against `libtorch`.
    pub(crate) fn cargo(&self, libtorch: &Libtorch) -> Command {
        let mut cargo = plain_cargo(&self.root);
        cargo.env("LIBTORCH", libtorch.path());
        for name in RIVAL_VARIABLES {
            if env::var_os(name).is_some() {
                crate::terminal::say(&format!("{name} is ignored; set LIBTORCH to choose one"));
            }
            cargo.env_remove(name);
        }
        cargo
    }
}

/// Runs `command` with this terminal and waits for its end.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    let program = command.get_program().to_owned();
    command.status().with_context(|| format!("cannot start {}", Path::new(&program).display()))
}

/// Whether `command` can be started and succeeds; what it prints is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Cargo, without the variables that describe this package to this program: a build script that
/// watches one of them would run again for every caller.
fn plain_cargo(root: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Asks cargo, because the folder may come from the environment or from a configuration file.
fn target_directory(root: &Path) -> Result<PathBuf> {
    let output = plain_cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed ({}); its message is above", output.status);
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let target = metadata["target_directory"].as_str();
    Ok(PathBuf::from(target.context("cargo metadata names no target_directory")?))
}

/// Says what to install before anything long begins; `torch-sys` is partly C++.
///
/// # Errors
/// When the C++ compiler does not start.
pub(crate) fn require_cxx_compiler() -> Result<()> {
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if succeeds(Command::new(&compiler).arg("--version")) {
        return Ok(());
    }
    bail!(
        "the C++ compiler {} does not start\nhint: apt-get install g++",
        Path::new(&compiler).display()
    );
}
