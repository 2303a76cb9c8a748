//! Who may import whom, and which file owns a foreign library. Only what a crate ships counts:
//! tests may use anything.

use std::process::Command;

use serde_json::Value;

use crate::check;
use crate::source::{SourceFile, shipped_files_below};

/// A crate, its folder, and the crates of the workspace that it may import.
const CRATES: [(&str, &str, &[&str]); 14] = [
    ("brine-proto", "proto/", &[]),
    ("brine-studies", "studies/", &["brine-proto"]),
    ("brine-database", "database/", &[]),
    ("brine-coordinator", "coordinator/", &["brine-proto", "brine-studies", "brine-database"]),
    (
        "brine-simulation",
        "simulation/",
        &["brine-proto", "brine-studies", "brine-coordinator", "brine-agent-core"],
    ),
    (
        "brine-cli",
        "cli/",
        &["brine-proto", "brine-studies", "brine-coordinator", "brine-simulation"],
    ),
    ("brine-kernels", "kernels/", &[]),
    ("brine-trainer", "trainer/", &["brine-proto", "brine-kernels"]),
    ("brine-agent-core", "agent-core/", &["brine-proto"]),
    ("brine-agent-keeper", "agent-keeper/", &["brine-proto", "brine-agent-core"]),
    (
        "brine-agent-node",
        "agent-node/",
        &[
            "brine-proto",
            "brine-kernels",
            "brine-trainer",
            "brine-agent-core",
            "brine-agent-keeper",
            "brine-database",
        ],
    ),
    ("brine-benches", "benches/", &["brine-trainer"]),
    ("brine-fuzz", "fuzz/", &["brine-proto", "brine-trainer"]),
    ("brine-xtask", "xtask/", &[]),
];

/// How far a library may reach inside of a crate that uses it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// One file owns it, so that another library is one file away.
    OneFile,
    /// The crate exists for it.
    Crate,
}

struct Library {
    package: &'static str,
    users: &'static [&'static str],
    reach: Reach,
    advice: &'static str,
}

const EDGES: &[&str] = &["brine-proto", "brine-coordinator", "brine-cli", "brine-agent-node"];

const LIBRARIES: [Library; 12] = [
    Library {
        package: "tch",
        users: &["brine-trainer", "brine-fuzz"],
        reach: Reach::Crate,
        advice: "put the tensor code into the trainer; nobody else may need libtorch",
    },
    Library {
        package: "cudarc",
        users: &["brine-kernels"],
        reach: Reach::Crate,
        advice: "put the launch beside its kernel and call that",
    },
    Library {
        package: "tonic",
        users: EDGES,
        reach: Reach::Crate,
        advice: "gRPC stops at the edge of a process; pass domain types further in",
    },
    Library {
        package: "tokio",
        users: EDGES,
        reach: Reach::Crate,
        advice: "async stops at the edge of a process; make it a plain function",
    },
    Library {
        package: "sled",
        users: &["brine-coordinator", "brine-agent-node", "brine-database"],
        reach: Reach::OneFile,
        advice: "call the crate's store instead",
    },
    Library {
        package: "hyper",
        users: &["brine-coordinator"],
        reach: Reach::OneFile,
        advice: "answer through the monitor's page",
    },
    Library {
        package: "prometheus-client",
        users: &["brine-coordinator"],
        reach: Reach::OneFile,
        advice: "count through the measures",
    },
    Library {
        package: "nvml-wrapper",
        users: &["brine-agent-node"],
        reach: Reach::OneFile,
        advice: "call the device inventory instead",
    },
    Library {
        package: "indicatif",
        users: &["brine-cli"],
        reach: Reach::OneFile,
        advice: "tell the progress display instead",
    },
    Library {
        package: "ratatui",
        users: &["brine-cli"],
        reach: Reach::OneFile,
        advice: "tell the live view's screen instead",
    },
    Library {
        package: "serde-saphyr",
        users: &["brine-studies"],
        reach: Reach::OneFile,
        advice: "read YAML through the recipe",
    },
    Library {
        package: "libloading",
        users: &["brine-trainer", "brine-kernels"],
        reach: Reach::OneFile,
        advice: "CUDA's back end is opened in one place, and the emulator of kernels",
    },
];

/// Code in which the same input must always give the same answer, and what it must not see.
const PURE: [&str; 5] = [
    "studies/src/",
    "coordinator/src/core/",
    "coordinator/src/journal.rs",
    "agent-core/src/",
    "simulation/src/",
];

const IMPURE: [(&str, &str); 10] = [
    ("std::fs", "read the file at the edge and pass its content in"),
    ("std::env", "read the environment at the edge and pass the value in"),
    ("std::net", "talk to others in the driver"),
    ("std::process", "start processes in the driver"),
    ("Instant::now", "pass `now` in"),
    ("SystemTime", "pass a `Timestamp` in"),
    ("HashMap", "its order is random; use a BTreeMap"),
    ("HashSet", "its order is random; use a BTreeSet"),
    ("rand::rng", "pass a seed in"),
    ("tokio::", "leave waiting to the driver"),
];

#[test]
fn a_crate_imports_only_the_crates_below_it() {
    let packages = packages();
    let mut violations = Vec::new();
    for package in &packages {
        let Some((_, _, allowed)) = CRATES.iter().find(|(name, _, _)| *name == package.name) else {
            violations.push(format!("{} has no row in CRATES; add one", package.name));
            continue;
        };
        let ours = |name: &&String| packages.iter().any(|other| other.name == **name);
        let forbidden =
            package.dependencies.iter().filter(ours).filter(|name| !allowed.contains(&&***name));
        violations.extend(forbidden.map(|name| {
            format!("{} imports {name}; it may import only {allowed:?}", package.name)
        }));
    }
    assert_eq!(packages.len(), CRATES.len(), "a row of CRATES has no crate");
    check("data flows one way", violations);
}

#[test]
fn a_foreign_library_is_imported_only_by_the_crates_that_own_it() {
    let mut violations = Vec::new();
    for package in packages() {
        for library in &LIBRARIES {
            let imports = package.dependencies.iter().any(|name| name == library.package);
            if imports && !library.users.contains(&&*package.name) {
                let (name, foreign, advice) = (&package.name, library.package, library.advice);
                violations.push(format!("{name} imports {foreign}: {advice}"));
            }
        }
    }
    check("foreign libraries stop at the crates that own them", violations);
}

#[test]
fn a_foreign_library_is_used_in_one_file() {
    let mut violations = Vec::new();
    for library in LIBRARIES.iter().filter(|library| library.reach == Reach::OneFile) {
        for (_, folder, _) in CRATES.iter().filter(|(name, _, _)| library.users.contains(name)) {
            let files = files_using(library.package, shipped_files_below(&format!("{folder}src/")));
            if files.len() > 1 {
                let (package, advice) = (library.package, library.advice);
                violations.push(format!("{package} is used in {}: {advice}", files.join(", ")));
            }
        }
    }
    check("one file per crate owns a foreign library", violations);
}

#[test]
fn pure_code_sees_no_clock_no_disk_and_no_chance() {
    let mut violations = Vec::new();
    for folder in PURE {
        let files = shipped_files_below(folder);
        assert!(!files.is_empty(), "{folder} of PURE is not there");
        files.iter().for_each(|file| violations.extend(impurities(file)));
    }
    check("pure code gets everything as an argument", violations);
}

#[test]
fn impurities_are_found_in_code_and_not_in_its_comments() {
    let text = "/// Not std::fs.\nuse std::time::SystemTime;\n".to_owned();
    let file = SourceFile { path: "a.rs".to_owned(), text };
    assert_eq!(impurities(&file), ["a.rs:2: `SystemTime`: pass a `Timestamp` in"]);
}

#[test]
fn a_use_of_a_library_is_told_from_a_name_that_ends_alike() {
    let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
    let files = vec![
        file("use.rs", "use sled::Db;"),
        file("path.rs", "fn f(e: sled::Error) {}"),
        file("alike.rs", "fn f() { unsled::g() } // sled::Db"),
    ];
    assert_eq!(files_using("sled", files), ["use.rs", "path.rs"]);
}

fn impurities(file: &SourceFile) -> Vec<String> {
    let code = file.code();
    let found = code.lines().flat_map(|(number, line)| {
        let rows = IMPURE.iter().filter(|(impure, _)| line.contains(impure));
        rows.map(move |(impure, advice)| (number, impure, advice)).collect::<Vec<_>>()
    });
    found
        .map(|(line, impure, advice)| format!("{}:{line}: `{impure}`: {advice}", file.path))
        .collect()
}

/// Paths of the files whose code names something of `package`.
fn files_using(package: &str, files: Vec<SourceFile>) -> Vec<String> {
    let path = format!("{}::", package.replace('-', "_"));
    let uses = |file: &SourceFile| {
        let code = file.code().text;
        code.match_indices(&path).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    };
    files.into_iter().filter(uses).map(|file| file.path).collect()
}

struct Package {
    name: String,
    /// Normal and build dependencies, by package name.
    dependencies: Vec<String>,
}

/// The members of the workspace, as cargo reads them.
fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(crate::source::root())
        .output()
        .expect("cargo, which runs this test, can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a name is a string").to_owned();
    let list = |value: &Value| value.as_array().expect("cargo metadata has lists").clone();
    let dependencies = |package: &Value| {
        let shipped = list(&package["dependencies"]).into_iter().filter(|d| d["kind"] != "dev");
        shipped.map(|dependency| text(&dependency["name"])).collect()
    };
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dependencies: dependencies(package),
        })
        .collect()
}
