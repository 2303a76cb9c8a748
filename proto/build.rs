//! Compiles `wire/brine.proto` with protox, so that nobody needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=wire/brine.proto");
    if std::env::var_os("CARGO_FEATURE_WIRE").is_none() {
        return Ok(());
    }
    let descriptors = protox::compile(["wire/brine.proto"], ["wire"])?;
    tonic_prost_build::configure()
        // Encoded once and shared by all watchers.
        .bytes(".brine.v1.WatchReply.records")
        .compile_fds(descriptors)?;
    Ok(())
}
