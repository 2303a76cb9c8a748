//! Which coordinator a command talks to.

use crate::client::{Client, unreachable_at};
use crate::data_dir::{DataDir, read_line};
use crate::error::CliError;
use crate::local::embedded::Embedded;
use crate::output::Printer;
use crate::stored::Stored;
use proto::ExperimentId;
use std::ffi::OsString;
use std::path::PathBuf;

/// Variable that names the coordinator of whoever gives neither `--coordinator` nor `--data-dir`.
const COORDINATOR_VARIABLE: &str = "BRINE_COORDINATOR";
/// Variable that names the file of its token.
const TOKEN_VARIABLE: &str = "BRINE_TOKEN_FILE";
/// Data folder of whoever names nothing.
const DATA_DIR: &str = ".brine";

/// Where the coordinator is. The command line wins over the environment.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// URL of the coordinator, for example http://10.0.0.5:7600 [env: BRINE_COORDINATOR]
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    coordinator: Option<String>,

    /// File that holds the coordinator's token [default: `token` in the data folder] [env:
    /// BRINE_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Data folder of a coordinator on this machine [default: .brine, when no URL is given]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// A connected client, and the coordinator that was started for it, if any.
pub(crate) struct Connection {
    pub(crate) client: Client,
    printer: Printer,
    embedded: Option<Embedded>,
}

impl Target {
    /// Connects to a coordinator that runs.
    ///
    /// # Errors
    /// None answers.
    pub(crate) async fn live(&self, printer: &Printer) -> Result<Connection, CliError> {
        let place = self.place();
        let client = place.connect().await?.ok_or_else(|| place.nobody())?;
        Ok(Connection { client, printer: printer.clone(), embedded: None })
    }

    /// Does `work` with a coordinator, one that runs or one over what is stored, and lets go of it
    /// however the work ends.
    ///
    /// # Errors
    /// As [`live_or_stored`](Self::live_or_stored); those of `work`; letting go failed.
    pub(crate) async fn with(
        &self,
        printer: &Printer,
        work: impl AsyncFnOnce(&mut Connection) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut connection = self.live_or_stored(printer).await?;
        let done = work(&mut connection).await;
        let closed = connection.close().await;
        done.and(closed)
    }

    /// Connects to a coordinator that runs; when none serves the data folder, opens what is stored
    /// in it, and says so.
    ///
    /// # Errors
    /// None answers and nothing is stored.
    pub(crate) async fn live_or_stored(&self, printer: &Printer) -> Result<Connection, CliError> {
        let place = self.place();
        let printer = printer.clone();
        if let Some(client) = place.connect().await? {
            return Ok(Connection { client, printer, embedded: None });
        }
        let data_dir = DataDir::new(&place.data_dir);
        if !data_dir.is_used() {
            return Err(place.nobody());
        }
        let embedded = Embedded::open_stored(&data_dir).await?;
        let stored = Stored::new(place.data_dir, embedded.changed_ms());
        printer.status(&stored.line());
        let client = embedded.connect().await?.of_stored(stored);
        Ok(Connection { client, printer, embedded: Some(embedded) })
    }

    fn place(&self) -> Place {
        let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Place::new(self, given(COORDINATOR_VARIABLE), given(TOKEN_VARIABLE))
    }
}

/// Where to look: what the command line says, else the environment.
#[derive(Debug, PartialEq)]
struct Place {
    /// `None`: whoever serves the data folder.
    url: Option<String>,
    token_file: PathBuf,
    data_dir: PathBuf,
}

impl Place {
    fn new(target: &Target, url: Option<OsString>, token_file: Option<OsString>) -> Self {
        // The two variables belong together: a token is one coordinator's.
        let is_elsewhere = url.is_some() && target.data_dir.is_some();
        let url = url.filter(|_| !is_elsewhere).map(|url| url.to_string_lossy().into_owned());
        let token_file = token_file.filter(|_| !is_elsewhere).map(PathBuf::from);
        let data_dir = target.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR));
        let token_file = target.token_file.clone().or(token_file);
        Self {
            url: target.coordinator.clone().or(url),
            token_file: token_file.unwrap_or_else(|| DataDir::new(&data_dir).token_path()),
            data_dir,
        }
    }

    /// A client, or nothing when no URL is given and nobody serves the data folder.
    async fn connect(&self) -> Result<Option<Client>, CliError> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => match DataDir::new(&self.data_dir).address()? {
                Some(url) => url,
                None => return Ok(None),
            },
        };
        let token = read_line(&self.token_file, "token").map_err(|error| {
            error.hint("the token is in the file `token` of the coordinator's data folder")
        })?;
        match Client::connect(&url, &token).await {
            Ok(client) => Ok(Some(client)),
            // A coordinator that was killed leaves its address behind.
            Err(error) if self.url.is_none() && error.is_connection() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn nobody(&self) -> CliError {
        match &self.url {
            Some(url) => unreachable_at(url),
            None => CliError::user(format!(
                "no coordinator serves the data folder {}",
                self.data_dir.display()
            ))
            .hint("`brine run RECIPE` starts one for a recipe, `brine coordinator` one that stays")
            .hint("give a coordinator elsewhere with --coordinator URL --token-file FILE"),
        }
    }
}

impl Connection {
    /// Ends the coordinator that was started for the command, if any.
    ///
    /// # Errors
    /// It cannot write what it has to.
    pub(crate) async fn close(self) -> Result<(), CliError> {
        match self.embedded {
            Some(embedded) => embedded.shutdown().await,
            None => Ok(()),
        }
    }

    /// The experiment that `wanted` names by its id, the start of it or its name; the newest one
    /// for `None`. Of several with exactly this name, which an edited recipe leaves behind, the
    /// newest.
    ///
    /// # Errors
    /// There is none, or several.
    pub(crate) async fn experiment(
        &mut self,
        wanted: Option<&str>,
    ) -> Result<ExperimentId, CliError> {
        let experiments = self.client.experiments().await?;
        let known = experiments
            .into_iter()
            .map(|summary| (summary.submitted_ms, summary.experiment))
            .collect();
        let chosen = choose(known, wanted)?;
        if let Some(words) = chosen.others(wanted.unwrap_or_default()) {
            self.printer.status(&words);
        }
        crate::client::parse_experiment(chosen.id)
    }
}

/// Most ids that a line lists.
const LISTED_MAX: usize = 8;

/// An experiment that was meant.
#[derive(Debug, PartialEq)]
struct Chosen {
    id: String,
    /// Those of the same name that were submitted before it, newest first.
    older: Vec<String>,
}

impl Chosen {
    fn alone(id: String) -> Self {
        Self { id, older: Vec::new() }
    }

    /// What to say of the older ones.
    fn others(&self, name: &str) -> Option<String> {
        (!self.older.is_empty()).then(|| {
            format!(
                "{} is the newest experiment of the name {name}; before it were submitted: {}",
                self.id,
                listed(&self.older)
            )
        })
    }
}

fn listed(ids: &[String]) -> String {
    let more = match ids.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", ids[..ids.len().min(LISTED_MAX)].join(", "))
}

/// An experiment's name: its id without the hash at its end.
fn name(id: &str) -> &str {
    id.rsplit_once('-').map_or(id, |(name, _)| name)
}

/// `known` has the time of submission and the id of each experiment.
fn choose(mut known: Vec<(u64, String)>, wanted: Option<&str>) -> Result<Chosen, CliError> {
    known.sort();
    let newest_first: Vec<String> = known.into_iter().rev().map(|(_, id)| id).collect();
    let Some(wanted) = wanted else {
        return newest_first.into_iter().next().map(Chosen::alone).ok_or_else(|| {
            CliError::user("there is no experiment yet").hint("start one with `brine run RECIPE`")
        });
    };
    if newest_first.iter().any(|id| id == wanted) {
        return Ok(Chosen::alone(wanted.to_owned()));
    }
    let of_name = newest_first.iter().filter(|id| name(id) == wanted);
    let mut of_name: Vec<String> = of_name.cloned().collect();
    if !of_name.is_empty() {
        let id = of_name.remove(0);
        return Ok(Chosen { id, older: of_name });
    }
    let begin = newest_first.iter().filter(|id| id.starts_with(wanted));
    let mut begin: Vec<String> = begin.cloned().collect();
    match begin.len() {
        1 => Ok(Chosen::alone(begin.remove(0))),
        0 => {
            let error = CliError::user(format!("there is no experiment {wanted:?}"));
            Err(if newest_first.is_empty() {
                error.hint("start one with `brine run RECIPE`")
            } else {
                error.hint(format!("the newest are: {}", listed(&newest_first)))
            })
        }
        several => Err(CliError::user(format!("{wanted:?} is the start of {several} experiments"))
            .hint(format!("give more of one of: {}", listed(&begin)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_is_named_by_its_start_or_its_name_or_is_the_newest() {
        let known = || {
            ["mini-11", "mini-12", "mini3-1", "other-1"]
                .iter()
                .zip([30, 20, 40, 10])
                .map(|(id, at)| (at, (*id).to_owned()))
                .collect::<Vec<(u64, String)>>()
        };
        #[track_caller]
        fn check(
            known: Vec<(u64, String)>,
            wanted: Option<&str>,
            expected: Result<(&str, &[&str]), &str>,
        ) {
            match (choose(known, wanted), expected) {
                (Ok(chosen), Ok((id, older))) => {
                    assert_eq!(chosen.id, id);
                    assert_eq!(chosen.older, older);
                }
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (found, _) => panic!("unexpected {found:?}"),
            }
        }
        check(known(), None, Ok(("mini3-1", &[])));
        check(known(), Some("mini-12"), Ok(("mini-12", &[])));
        check(known(), Some("oth"), Ok(("other-1", &[])));
        check(known(), Some("mini"), Ok(("mini-11", &["mini-12"])));
        check(known(), Some("mini3"), Ok(("mini3-1", &[])));
        check(known(), Some("min"), Err("give more of one of: mini3-1, mini-11, mini-12"));
        check(known(), Some("mini-1"), Err("give more of one of: mini-11, mini-12"));
        check(known(), Some("x"), Err("the newest are: mini3-1, mini-11, mini-12, other-1"));
        check(Vec::new(), None, Err("there is no experiment yet"));
        let mut same = known();
        same.push((5, "mini-1".to_owned()));
        check(same, Some("mini-1"), Ok(("mini-1", &[])));
    }

    #[test]
    fn the_older_ones_of_a_name_are_said() {
        let chosen = Chosen { id: "a-2".to_owned(), older: vec!["a-1".to_owned()] };
        let words = chosen.others("a").unwrap();
        assert_eq!(
            words,
            "a-2 is the newest experiment of the name a; before it were submitted: a-1"
        );
        assert_eq!(Chosen::alone("a-2".to_owned()).others("a"), None);
    }

    // Goal: what is written on the command line wins over the environment, and a token belongs to
    // its coordinator.
    #[test]
    fn the_command_line_wins_over_the_environment() {
        let target =
            |coordinator: Option<&str>, token: Option<&str>, folder: Option<&str>| Target {
                coordinator: coordinator.map(str::to_owned),
                token_file: token.map(PathBuf::from),
                data_dir: folder.map(PathBuf::from),
            };
        for (given, url, token, expected) in [
            (target(None, None, None), None, None, (None, ".brine/token", ".brine")),
            (target(None, None, None), Some("u"), Some("t"), (Some("u"), "t", ".brine")),
            (target(None, None, Some("d")), Some("u"), Some("t"), (None, "d/token", "d")),
            (target(None, None, Some("d")), None, Some("t"), (None, "t", "d")),
            (target(None, Some("o"), Some("d")), Some("u"), Some("t"), (None, "o", "d")),
            (target(Some("c"), None, None), Some("u"), Some("t"), (Some("c"), "t", ".brine")),
        ] {
            let place = Place::new(&given, url.map(Into::into), token.map(Into::into));
            let (url, token, folder) = expected;
            let expected = Place {
                url: url.map(str::to_owned),
                token_file: token.into(),
                data_dir: folder.into(),
            };
            assert_eq!(place, expected, "{given:?}");
        }
    }
}
