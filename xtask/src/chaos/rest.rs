//! Rest: no fault is at work, and everything that was submitted comes to its end. Then is the time
//! to compare.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::POLL_PERIOD;
use super::check::{self, Experiment, Findings};
use super::fleet::CPUS;
use super::plan::Target;
use super::processes;
use super::records::{parse_ledger, parse_records};
use super::story::now;
use super::world::World;

/// Longest time until everything has ended after the last fault. A trial that was struck often
/// waits for up to a minute before its next attempt, and an agent that lost many attempts is
/// avoided for some tens of seconds.
const REST_MAX: Duration = Duration::from_secs(150);
/// Pause between two questions whether it is so.
const ASK_PERIOD: Duration = Duration::from_millis(250);
/// Longest time until the first answer of a coordinator that was just started.
const START_MAX: Duration = Duration::from_secs(30);

/// What was read of every experiment that has ended: its records as they were printed.
#[derive(Debug, Default)]
pub(crate) struct Looks(BTreeMap<String, Vec<String>>);

impl World {
    /// Starts all programs and waits until the coordinator has written its token and answers.
    ///
    /// # Errors
    /// It does not within [`START_MAX`].
    pub(crate) fn wake(&mut self, agents: usize) -> Result<()> {
        self.fleet.start(Target::Coordinator, &mut self.story)?;
        let until = now() + START_MAX;
        while !self.client.token_file.exists() || !self.client.ask("wake", &["status"])?.done {
            anyhow::ensure!(now() < until, "the coordinator does not start; see its log");
            thread::sleep(POLL_PERIOD);
        }
        (0..agents).try_for_each(|agent| self.fleet.start(Target::Agent(agent), &mut self.story))
    }

    /// Waits until everything has ended; how long that took. What does not end is a contradiction.
    ///
    /// # Errors
    /// A program cannot be started, or `brine` broke.
    pub(crate) fn rest(&mut self) -> Result<Duration> {
        let begun = now();
        let mut since = begun;
        let mut calm = false;
        loop {
            self.pass(ASK_PERIOD)?;
            if self.is_calm() && !calm {
                (calm, since) = (true, now());
            }
            let Some(hindrance) = self.hindrance()? else {
                return Ok(begun.elapsed());
            };
            if !self.contradictions.is_empty() {
                return Ok(begun.elapsed());
            }
            if now() > since + REST_MAX {
                let seconds = REST_MAX.as_secs();
                let words = format!("no rest {seconds} s after the last fault: {hindrance}");
                self.contradictions.push(words);
                return Ok(begun.elapsed());
            }
        }
    }

    /// Why it is not quiet yet.
    fn hindrance(&mut self) -> Result<Option<String>> {
        if !self.is_calm() {
            return Ok(Some("a fault lasts, or a program is down".to_owned()));
        }
        if !self.submissions.is_empty() {
            let refusal = self.submissions.refusal();
            return Ok(Some(format!("a recipe is not accepted: {refusal}")));
        }
        let expected: BTreeSet<String> = self.submissions.acknowledged().keys().cloned().collect();
        let answer = self.client.ask("rest", &["status"])?;
        if !answer.done {
            return Ok(Some(answer.words));
        }
        let status: Value = serde_json::from_str(&answer.stdout).context("status is no JSON")?;
        self.compare(&status, &expected);
        if let Some(words) = unrest(&status) {
            return Ok(Some(words));
        }
        let all = processes::of(&self.client.folder);
        let left = all.iter().find(|process| process.attempt().is_some());
        Ok(left.map(|process| format!("{} is left", process.words())))
    }

    /// Reads the records of experiments, of all or only of those never seen, and checks everything
    /// that is known.
    ///
    /// # Errors
    /// The coordinator does not answer, or what it says cannot be read.
    pub(crate) fn look(&mut self, at_all: bool) -> Result<Findings> {
        let ids: Vec<String> = self.submissions.acknowledged().keys().cloned().collect();
        for id in ids {
            let before = self.looks.0.get(&id);
            if before.is_some() && !at_all {
                continue;
            }
            let answer = self.client.ask("watch", &["watch", &id])?;
            anyhow::ensure!(answer.done, "the records of {id} cannot be read: {}", answer.words);
            let lines: Vec<String> = answer.stdout.lines().map(str::to_owned).collect();
            let known = before.map_or(&[][..], Vec::as_slice);
            if let Some(words) = changed(known, &lines) {
                self.contradictions.push(format!("the records of {id} changed: {words}"));
            }
            self.looks.0.insert(id, lines);
        }
        let path = self.fleet.ground().ledger();
        let ledger = fs::read_to_string(&path);
        let ledger = ledger.with_context(|| format!("cannot read {}", path.display()))?;
        let mut experiments = BTreeMap::new();
        for (id, sweep) in self.submissions.acknowledged() {
            let lines = self.looks.0.get(id).map_or(&[][..], Vec::as_slice);
            let records = parse_records(lines)?;
            experiments.insert(id.clone(), Experiment { sweep: sweep.clone(), records });
        }
        let findings = check::check(&experiments, &parse_ledger(&ledger)?);
        self.contradictions.extend(findings.contradictions.iter().cloned());
        Ok(findings)
    }
}

/// What in `brine status` is not at rest: an experiment that goes on, an agent that is away, CPU
/// slots that did not come back.
fn unrest(status: &Value) -> Option<String> {
    let list = |key: &str| status[key].as_array().map_or(&[][..], Vec::as_slice);
    let running = list("experiments").iter().find(|one| one["state"] == "running");
    let busy = list("agents").iter().find(|agent| {
        agent["connected"] != true || agent["cpus_free"] != CPUS || agent["cpus"] != CPUS
    });
    running.or(busy).map(|found| format!("not at rest: {found}"))
}

/// The first line that was printed before and is another now. A journal only grows.
fn changed(before: &[String], after: &[String]) -> Option<String> {
    let pairs = before.iter().enumerate().map(|(place, line)| (line, after.get(place)));
    let (line, now) = pairs.into_iter().find(|(line, now)| *now != Some(*line))?;
    let now = now.map_or("gone", String::as_str);
    Some(format!("{line} became {now}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn records_may_be_added_and_never_changed() {
        let lines =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let before = lines(&["a", "b"]);
        assert_eq!(changed(&before, &lines(&["a", "b", "c"])), None);
        assert_eq!(changed(&[], &before), None);
        assert_eq!(changed(&before, &lines(&["a", "c"])).unwrap(), "b became c");
        assert_eq!(changed(&before, &lines(&["a"])).unwrap(), "b became gone");
    }

    #[test]
    fn it_is_at_rest_when_all_has_ended_and_every_device_is_free() {
        let agent = |connected: bool, free: u64| json!({"agent": "a", "connected": connected, "cpus": CPUS, "cpus_free": free});
        let status = |state: &str, agent: Value| json!({"experiments": [{"experiment": "e", "state": state}], "agents": [agent]});
        assert_eq!(unrest(&status("complete", agent(true, CPUS))), None);
        assert_eq!(unrest(&status("failed", agent(true, CPUS))), None);
        assert!(unrest(&status("running", agent(true, CPUS))).unwrap().contains("running"));
        assert!(unrest(&status("complete", agent(false, CPUS))).is_some());
        assert!(unrest(&status("complete", agent(true, CPUS - 1))).is_some());
    }
}
