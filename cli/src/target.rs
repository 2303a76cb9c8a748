//! Which coordinator a command talks to.

use crate::client::{Client, unreachable_at};
use crate::data_dir::{DataDir, read_line};
use crate::error::CliError;
use crate::local::embedded::Embedded;
use proto::ExperimentId;
use std::path::PathBuf;

/// Where the coordinator is.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// URL of the coordinator, for example http://10.0.0.5:7600
    #[arg(long, value_name = "URL", env = "BRINE_COORDINATOR")]
    coordinator: Option<String>,

    /// File that holds the coordinator's token [default: `token` in the data folder]
    #[arg(long, value_name = "FILE", env = "BRINE_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Data folder of a coordinator on this machine; used when no URL is given
    #[arg(long, value_name = "DIR", default_value = ".brine")]
    data_dir: PathBuf,
}

/// A connected client, and the coordinator that was started for it, if any.
pub(crate) struct Connection {
    pub(crate) client: Client,
    embedded: Option<Embedded>,
}

impl Target {
    /// Connects to a coordinator that runs.
    ///
    /// # Errors
    /// None answers.
    pub(crate) async fn live(&self) -> Result<Connection, CliError> {
        let client = self.connect().await?.ok_or_else(|| self.nobody())?;
        Ok(Connection { client, embedded: None })
    }

    /// Does `work` with a coordinator, one that runs or one over what is stored, and lets go of it
    /// however the work ends.
    ///
    /// # Errors
    /// As [`live_or_stored`](Self::live_or_stored); those of `work`; letting go failed.
    pub(crate) async fn with(
        &self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut connection = self.live_or_stored().await?;
        let done = work(&mut connection).await;
        let closed = connection.close().await;
        done.and(closed)
    }

    /// Connects to a coordinator that runs; when none serves the data folder, opens what is stored
    /// in it.
    ///
    /// # Errors
    /// None answers and nothing is stored.
    pub(crate) async fn live_or_stored(&self) -> Result<Connection, CliError> {
        if let Some(client) = self.connect().await? {
            return Ok(Connection { client, embedded: None });
        }
        let data_dir = self.data_dir();
        if !data_dir.is_used() {
            return Err(self.nobody());
        }
        let embedded = Embedded::open_stored(&data_dir).await?;
        Ok(Connection { client: embedded.connect().await?, embedded: Some(embedded) })
    }

    /// The data folder, which exists on this machine only when no URL is given.
    pub(crate) fn data_dir(&self) -> DataDir {
        DataDir::new(&self.data_dir)
    }

    /// A client, or nothing when no URL is given and nobody serves the data folder.
    async fn connect(&self) -> Result<Option<Client>, CliError> {
        let data_dir = self.data_dir();
        let url = match &self.coordinator {
            Some(url) => url.clone(),
            None => match data_dir.address()? {
                Some(url) => url,
                None => return Ok(None),
            },
        };
        let token_file = self.token_file.clone();
        let token_file = token_file.unwrap_or_else(|| data_dir.token_path());
        let token = read_line(&token_file, "token").map_err(|error| {
            error.hint("the token is in the file `token` of the coordinator's data folder")
        })?;
        match Client::connect(&url, &token).await {
            Ok(client) => Ok(Some(client)),
            // A coordinator that was killed leaves its address behind.
            Err(error) if self.coordinator.is_none() && error.is_connection() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn nobody(&self) -> CliError {
        match &self.coordinator {
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

    /// The experiment that `wanted` names by its id or the start of it; the newest one for `None`.
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
        crate::client::parse_experiment(choose(known, wanted)?)
    }
}

/// `known` has the time of submission and the id of each experiment.
fn choose(mut known: Vec<(u64, String)>, wanted: Option<&str>) -> Result<String, CliError> {
    /// Most ids that an error lists.
    const LISTED_MAX: usize = 8;
    known.sort();
    let Some(wanted) = wanted else {
        return known.pop().map(|(_, id)| id).ok_or_else(|| {
            CliError::user("there is no experiment yet").hint("start one with `brine run RECIPE`")
        });
    };
    let is_exact = |(_, id): &&(u64, String)| id == wanted;
    if let Some((_, id)) = known.iter().find(is_exact) {
        return Ok(id.clone());
    }
    let matches = known.iter().rev().filter(|(_, id)| id.starts_with(wanted));
    let matches: Vec<&str> = matches.map(|(_, id)| id.as_str()).collect();
    match matches.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => {
            let all: Vec<&str> = known.iter().rev().map(|(_, id)| id.as_str()).collect();
            let listed = all[..all.len().min(LISTED_MAX)].join(", ");
            let error = CliError::user(format!("there is no experiment {wanted:?}"));
            Err(if listed.is_empty() {
                error.hint("start one with `brine run RECIPE`")
            } else {
                error.hint(format!("the newest are: {listed}"))
            })
        }
        several => {
            Err(CliError::user(format!("{wanted:?} is the start of {} experiments", several.len()))
                .hint(format!(
                    "give more of one of: {}",
                    several[..several.len().min(LISTED_MAX)].join(", ")
                )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_is_named_by_its_start_or_is_the_newest() {
        let known = || {
            ["mini-11", "mini-12", "other-1"]
                .iter()
                .zip([30, 20, 10])
                .map(|(id, at)| (at, (*id).to_owned()))
                .collect::<Vec<(u64, String)>>()
        };
        #[track_caller]
        fn check(known: Vec<(u64, String)>, wanted: Option<&str>, expected: Result<&str, &str>) {
            match (choose(known, wanted), expected) {
                (Ok(id), Ok(expected)) => assert_eq!(id, expected),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (found, _) => panic!("unexpected {found:?}"),
            }
        }
        check(known(), None, Ok("mini-11"));
        check(known(), Some("mini-12"), Ok("mini-12"));
        check(known(), Some("oth"), Ok("other-1"));
        check(known(), Some("mini"), Err("give more of one of: mini-11, mini-12"));
        check(known(), Some("x"), Err("the newest are: mini-11, mini-12, other-1"));
        check(Vec::new(), None, Err("there is no experiment yet"));
        let mut same = known();
        same.push((5, "mini-1".to_owned()));
        check(same, Some("mini-1"), Ok("mini-1"));
    }
}
