//! `brine run`: a coordinator in this process, agents as children, one recipe to its report.

use crate::commands::watch::verdict;
use crate::data_dir::DataDir;
use crate::error::{CliError, Kind};
use crate::findings::Findings;
use crate::inputs::{Gathered, RecipeFile};
use crate::local::agents::{AGENTS_MAX, Launch, LocalAgents, find_program};
use crate::local::embedded::{Doors, Embedded, LEASE_TTL_MS, LogLimit};
use crate::local::signals::Signals;
use crate::number;
use crate::output::{OutputMode, Printer};
use crate::progress::follow::{Records, follow};
use crate::snapshot::Snapshot;
use proto::{ExperimentState, Resources};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Run a recipe on this machine, from its trials to its report
///
/// Starts a coordinator and agents, follows the experiment, and prints what it found. Everything
/// is kept in the data folder: after Ctrl-C or a crash the same command goes on from the last
/// checkpoints, and when the experiment is complete it answers at once.
///
/// Other terminals can use `brine status`, `brine logs` and `brine cancel` meanwhile; agents on
/// other machines can join when --listen is an address that they reach.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,

    /// Folder for everything that must outlive the command
    #[arg(long, value_name = "DIR", default_value = ".brine")]
    data_dir: PathBuf,

    /// Agents to start on this machine; 0 waits for others to join
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=i64::from(AGENTS_MAX)))]
    agents: u32,

    /// CPU slots of each agent [default: this machine's, shared out evenly]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus_per_agent: Option<u32>,

    /// Whether trials may use this machine's GPUs; the first agent owns them all
    #[arg(long, value_enum, default_value_t = Gpus::All)]
    gpus: Gpus,

    /// Address and port of the coordinator; port 0 chooses a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Give trials that failed for good a new chance
    #[arg(long)]
    retry_failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Gpus {
    /// All that the driver shows; none without a driver.
    All,
    /// None.
    None,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    let file = RecipeFile::read(&args.recipe)?;
    args.check(&file.recipe.resources)?;
    let gathered = {
        let _spinner = printer.screen().spinner("reading the recipe's files");
        file.gather(printer)?
    };
    if let Some(words) = &gathered.data_words {
        printer.status(&format!("training text: {words}"));
    }
    // What the recipe and its files cannot be together is said before anything is stored.
    let study = file.recipe.study(&gathered.inputs);
    study.map_err(|error| CliError::user(format!("{}", args.recipe.display())).because(error))?;

    let mut signals = Signals::new()?;
    let data_dir = DataDir::new(&args.data_dir);
    let doors = Doors { listen: args.listen, metrics: None };
    let mut embedded =
        Embedded::serve(&data_dir, doors, LogLimit::USUAL, LEASE_TTL_MS, None).await?;
    let mut agents = LocalAgents::none();
    let result = {
        let client = embedded.connect().await;
        let url = embedded.url().to_owned();
        let work = async {
            let mut session =
                Session { client: client?, data_dir: &data_dir, args: &args, printer, url };
            session.conduct(file.text, &gathered, &mut agents).await
        };
        tokio::select! {
            ended = work => ended,
            error = embedded.failed() => Err(error),
            () = signals.next() => Err(args.interrupted()),
        }
    };
    if agents.any() {
        if let Err(error) = &result {
            let again = if error.kind() == Kind::Interrupted { "again " } else { "" };
            printer
                .status(&format!("stopping: trials save what they have; Ctrl-C {again}kills them"));
        }
        agents.stop(signals.next()).await;
    }
    let closed = embedded.shutdown().await;
    result.and_then(|snapshot| {
        closed?;
        let outcomes = snapshot.trials.iter().filter_map(|trial| trial.outcome.as_ref());
        verdict(snapshot.state, outcomes)
    })
}

/// One recipe on its way.
struct Session<'a> {
    client: crate::client::Client,
    data_dir: &'a DataDir,
    args: &'a Args,
    printer: &'a Printer,
    url: String,
}

impl Session<'_> {
    async fn conduct(
        &mut self,
        recipe: String,
        gathered: &Gathered,
        agents: &mut LocalAgents,
    ) -> Result<Snapshot, CliError> {
        gathered.upload(&mut self.client, self.printer).await?;
        let inputs = &gathered.inputs;
        let submitted = self.client.submit(recipe, inputs, self.args.retry_failed).await?;
        let id = submitted.experiment;
        let mut snapshot = self.client.snapshot(&id).await?;
        if snapshot.state == ExperimentState::Running {
            let verb = if submitted.existed { "continues" } else { "begins" };
            let folder = self.data_dir.path().display();
            self.printer
                .status(&format!("{id} {verb}; data folder {folder}, coordinator {}", self.url));
            for launch in self.launches()? {
                agents.add(launch, self.printer);
            }
            tokio::select! {
                state = follow(&mut self.client, &snapshot, self.printer, Records::Fold) => {
                    state?;
                }
                error = agents.failed() => return Err(error),
            }
            snapshot = self.client.snapshot(&id).await?;
        } else {
            self.printer.status(&format!(
                "{id} is {} already; this is what is stored",
                snapshot.state.word()
            ));
        }
        self.report(&snapshot).await?;
        Ok(snapshot)
    }

    async fn report(&mut self, snapshot: &Snapshot) -> Result<(), CliError> {
        let mut findings = Findings::of(snapshot)?;
        findings.add_curves(&mut self.client, snapshot).await?;
        let written = findings.write(&self.data_dir.report_path(&snapshot.experiment));
        findings.print(self.printer)?;
        let page = written?;
        match self.printer.mode() {
            OutputMode::Json => self.printer.status(&format!("report: {}", page.display())),
            OutputMode::Human | OutputMode::Quiet => {
                self.printer.data(&format!("\nreport: {}", page.display()))?;
            }
        }
        Ok(())
    }

    fn launches(&self) -> Result<Vec<Launch>, CliError> {
        if self.args.agents == 0 {
            self.printer.status(&format!(
                "no agent is started here; join with: brine-agent --coordinator {} --token-file {}",
                self.url,
                self.data_dir.token_path().display()
            ));
            return Ok(Vec::new());
        }
        let program = find_program()?;
        let cpus = self.args.cpus_of_each();
        let shared = self.data_dir.path().join("agents");
        let launch = |index: u32| {
            let name = format!("local-{index}");
            let folder = self.data_dir.agent_path(&name);
            let gpus = match (self.args.gpus, index) {
                (Gpus::All, 0) => "all",
                (Gpus::All | Gpus::None, _) => "none",
            };
            let arguments: Vec<(&str, OsString)> = vec![
                ("--coordinator", self.url.clone().into()),
                ("--token-file", self.data_dir.token_path().into()),
                ("--id", name.clone().into()),
                ("--data-dir", folder.clone().into()),
                ("--cpus", cpus.to_string().into()),
                ("--gpus", gpus.into()),
                // Shared, so that each file is fetched once and any agent can take a trial over.
                ("--blobs", shared.join("blobs").into()),
                ("--checkpoints", shared.join("checkpoints").into()),
            ];
            let pairs = arguments.into_iter().flat_map(|(flag, value)| [flag.into(), value]);
            Launch {
                program: program.clone(),
                arguments: pairs.chain([OsString::from("--exit-with-stdin")]).collect(),
                log: folder.join("agent.log"),
                name,
            }
        };
        Ok((0..self.args.agents).map(launch).collect())
    }
}

impl Args {
    /// Refuses what could only wait for ever.
    fn check(&self, resources: &Resources) -> Result<(), CliError> {
        let cpus = self.cpus_of_each();
        if self.agents > 0 && resources.cpus > cpus {
            return Err(CliError::user(format!(
                "a trial needs {}, but each agent has {cpus}",
                number::plural(resources.cpus as usize, "CPU slot")
            ))
            .hint("lower spec.resources.cpus in the recipe, start fewer agents, or give --cpus-per-agent"));
        }
        let needs = match (resources.gpus, resources.gpu_share_milli) {
            (0, 0) => None,
            (0, _) => Some("a share of a GPU".to_owned()),
            (gpus, _) => Some(number::plural(gpus as usize, "GPU")),
        };
        if let (Some(needs), Gpus::None, 1..) = (needs, self.gpus, self.agents) {
            return Err(CliError::user(format!(
                "a trial needs {needs}, but --gpus none forbids it"
            )));
        }
        Ok(())
    }

    fn cpus_of_each(&self) -> u32 {
        self.cpus_per_agent.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
            (cpus / self.agents.max(1)).max(1)
        })
    }

    fn interrupted(&self) -> CliError {
        let mut command = format!("brine run {}", self.recipe.display());
        if self.data_dir.as_os_str() != ".brine" {
            command.push_str(" --data-dir ");
            command.push_str(&self.data_dir.display().to_string());
        }
        CliError::interrupted("everything so far is kept").hint(format!("go on with: {command}"))
    }
}
