//! `brine-agent`: joins a coordinator and runs its trials on this machine.

fn main() -> std::process::ExitCode {
    agent_node::cli::main()
}
