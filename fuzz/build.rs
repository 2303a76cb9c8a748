//! Makes the targets find libtorch without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-env-changed=DEP_BRINE_TRAINER_RPATH");
    if let Ok(folder) = std::env::var("DEP_BRINE_TRAINER_RPATH") {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
}
