//! Compiles what libtorch offers in C++ only, and finds its shared libraries at run time without
//! `LD_LIBRARY_PATH`: hands the linker a search path for this package's tests, and the same to
//! dependents that build programs, which read it as `DEP_BRINE_TRAINER_RPATH` in their own build
//! scripts.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    for name in ["LIBTORCH", "LIBTORCH_LIB", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    compile_function();
    let Some(lib) = libtorch("LIBTORCH_LIB", "lib") else {
        // torch-sys then uses a libtorch of the system, which the loader finds by itself.
        return;
    };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo::metadata=rpath={}", lib.display());
}

fn compile_function() {
    let source = "src/operations/function.cpp";
    println!("cargo::rerun-if-changed={source}");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).file(source);
    // As torch-sys has it, whose tensors are handed over.
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    build.define("_GLIBCXX_USE_CXX11_ABI", &*abi);
    if let Some(include) = libtorch("LIBTORCH_INCLUDE", "include") {
        build.include(include.join("torch/csrc/api/include")).include(include);
    }
    build.compile("brine_function");
}

/// `folder` of the libtorch that the environment names, by a variable of its own or by the common
/// one.
fn libtorch(variable: &str, folder: &str) -> Option<PathBuf> {
    let root = env::var_os(variable).or_else(|| env::var_os("LIBTORCH"))?;
    // Cargo runs a build script in its package's folder, people name paths from the workspace's.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let workspace = package.parent().unwrap_or(Path::new("."));
    Some(workspace.join(root).join(folder))
}
