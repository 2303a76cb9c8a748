//! `brine-agent-keeper`: keeps the programs of an agent. It uses nothing of this crate, so that
//! the linker leaves libtorch out.

fn main() -> std::process::ExitCode {
    agent_keeper::cli::main()
}
