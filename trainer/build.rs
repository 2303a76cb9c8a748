//! Finds libtorch's shared libraries at run time without `LD_LIBRARY_PATH`: hands the linker a
//! search path for this package's tests, and the same to dependents that build programs, which
//! read it as `DEP_BRINE_TRAINER_RPATH` in their own build scripts.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_LIB");
    let Some(root) = env::var_os("LIBTORCH_LIB").or_else(|| env::var_os("LIBTORCH")) else {
        // torch-sys then uses a libtorch of the system, which the loader finds by itself.
        return;
    };
    // Cargo runs a build script in its package's folder, people name paths from the workspace's.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let workspace = package.parent().unwrap_or(Path::new("."));
    let lib = workspace.join(root).join("lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo::metadata=rpath={}", lib.display());
}
