//! What an operator's monitoring reads: counts since the start, and the text of one look at the
//! coordinator. The only file that knows prometheus-client.
//!
//! Names follow Prometheus' guide: base units at their end, `_total` for what only grows. Labels
//! take few values whatever runs here: never a trial's or an experiment's id.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use proto::{AgentId, Event, Outcome, Record};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Media type of [`Measures::text`]: OpenMetrics, which Prometheus reads.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Agents, by name, whose silence is shown; more would make more series than the rest together.
pub(crate) const AGENTS_SHOWN_MAX: usize = 1_000;
/// The calls that are counted by name; any other path counts as `other`.
const METHODS: [&str; 14] = [
    "Session",
    "HasBlob",
    "PutBlob",
    "GetBlob",
    "Info",
    "Submit",
    "Cancel",
    "Experiments",
    "Experiment",
    "Explain",
    "Agents",
    "Watch",
    "Metrics",
    "Logs",
];

type Labels = Vec<(&'static str, String)>;
type Count = Gauge<u64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;

/// Counts since the start of the process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Measures {
    append: Histogram,
    appended_bytes: Counter,
    appended_records: Counter,
    failed: Family<Labels, Counter>,
    notices: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
}

/// The coordinator at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Trials by the word for their state.
    pub(crate) trials: BTreeMap<&'static str, u64>,
    /// Experiments by theirs.
    pub(crate) experiments: BTreeMap<&'static str, u64>,
    pub(crate) agents_connected: u64,
    pub(crate) agents_away: u64,
    pub(crate) cpus: u64,
    pub(crate) cpus_free: u64,
    pub(crate) gpus: u64,
    pub(crate) gpus_free: u64,
    pub(crate) gpus_withdrawn: u64,
    /// Processes that agents may run.
    pub(crate) leases: u64,
    /// How long each agent has said nothing, in seconds.
    pub(crate) silence: Vec<(AgentId, f64)>,
    pub(crate) watchers: u64,
    pub(crate) store_bytes: u64,
    pub(crate) logs_bytes: u64,
    /// Of this process, in seconds.
    pub(crate) cpu: f64,
    pub(crate) resident_bytes: u64,
}

impl Default for Measures {
    fn default() -> Self {
        // 0.1 ms to 3.3 s: a good disk needs 0.2 ms, and a lease is lost after seconds.
        let buckets = exponential_buckets(0.000_1, 2.0, 16);
        Self {
            append: Histogram::new(buckets),
            appended_bytes: Counter::default(),
            appended_records: Counter::default(),
            failed: Family::default(),
            notices: Family::default(),
            requests: Family::default(),
            errors: Family::default(),
        }
    }
}

impl Measures {
    /// So many bytes of records were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.appended_bytes.inc_by(bytes);
    }

    /// Records became durable, which took so long.
    pub(crate) fn appended(&self, records: &[Record], took: Duration) {
        self.append.observe(took.as_secs_f64());
        self.appended_records.inc_by(records.len() as u64);
        for record in records {
            if let Some(word) = failure(&record.event) {
                self.failed.get_or_create(&vec![("class", word.to_owned())]).inc();
            }
            if let Event::Noticed { notice, .. } = &record.event {
                let kind = notice.kind.word().replace(' ', "_");
                self.notices.get_or_create(&vec![("kind", kind)]).inc();
            }
        }
    }

    /// A call came; the answer is its label.
    pub(crate) fn called(&self, path: &str) -> &'static str {
        let name = path.rsplit('/').next().unwrap_or_default();
        let method = METHODS.into_iter().find(|known| *known == name).unwrap_or("other");
        self.requests.get_or_create(&vec![("method", method.to_owned())]).inc();
        method
    }

    /// It was refused with this gRPC code.
    pub(crate) fn refused(&self, method: &'static str, code: tonic::Code) {
        let labels = vec![("method", method.to_owned()), ("code", format!("{code:?}"))];
        self.errors.get_or_create(&labels).inc();
    }

    /// Everything as text.
    pub(crate) fn text(&self, seen: &Seen) -> String {
        let mut registry = Registry::default();
        self.register(registry.sub_registry_with_prefix("brine"));
        seen.register(registry.sub_registry_with_prefix("brine"));
        let process = registry.sub_registry_with_prefix("process");
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(seen.cpu);
        process.register_with_unit("cpu", "User and system time", Unit::Seconds, cpu);
        count_of(
            process,
            "resident_memory",
            "Resident memory",
            Some(Unit::Bytes),
            seen.resident_bytes,
        );
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            // Writing into memory does not fail; a half page would lack the mark of its end.
            tracing::error!("the page for monitoring was not written");
        }
        text
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "journal_append_duration",
            "Time until the records of a turn are durable",
            Unit::Seconds,
            self.append.clone(),
        );
        let help = "Bytes of records that were written since the start";
        registry.register("journal_appended_bytes", help, self.appended_bytes.clone());
        let help = "Records that were written since the start";
        registry.register("journal_appended_records", help, self.appended_records.clone());
        let help = "Attempts that did not complete since the start, by the class of the failure";
        registry.register("attempts_failed", help, self.failed.clone());
        let help = "What agents noticed about trainings since the start, by kind";
        registry.register("notices", help, self.notices.clone());
        let help = "Calls of agents and clients since the start";
        registry.register("requests", help, self.requests.clone());
        let help = "Calls that were refused or failed before their first answer, since the start";
        registry.register("request_errors", help, self.errors.clone());
    }
}

impl Seen {
    fn register(&self, registry: &mut Registry) {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "Version of the program", Info::new(version));
        words(registry, "trials", "Trials by state, planned ones too", &self.trials);
        words(registry, "experiments", "Experiments by state", &self.experiments);
        let agents =
            BTreeMap::from([("connected", self.agents_connected), ("away", self.agents_away)]);
        words(
            registry,
            "agents",
            "Agents by connection; one that left and holds nothing is forgotten",
            &agents,
        );
        for (name, help, value) in [
            ("cpu_slots", "CPU slots of connected agents", self.cpus),
            ("cpu_slots_free", "CPU slots of connected agents that nothing holds", self.cpus_free),
            ("gpus", "GPUs that connected agents offer", self.gpus),
            (
                "gpus_free",
                "GPUs of connected agents of which nothing holds any part",
                self.gpus_free,
            ),
            (
                "gpus_withdrawn",
                "GPUs that connected agents offer no longer, because they are lost until a reset",
                self.gpus_withdrawn,
            ),
            ("leases", "Processes that agents may run now", self.leases),
            ("watchers", "Clients that follow the records", self.watchers),
        ] {
            count_of(registry, name, help, None, value);
        }
        let help = "Journal and metric series on disk";
        count_of(registry, "store_disk", help, Some(Unit::Bytes), self.store_bytes);
        let help = "What trials printed, on disk; beyond --log-limit the oldest is removed";
        count_of(registry, "logs_disk", help, Some(Unit::Bytes), self.logs_bytes);
        let silence = Family::<Labels, Seconds>::default();
        for (agent, seconds) in self.silence.iter().take(AGENTS_SHOWN_MAX) {
            silence.get_or_create(&vec![("agent", agent.to_string())]).set(*seconds);
        }
        let help = "Time since each agent was heard; of more than 1000 agents the first by name";
        registry.register_with_unit("agent_silence", help, Unit::Seconds, silence);
    }
}

fn count_of(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: u64) {
    let gauge = Count::default();
    gauge.set(value);
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}

fn words(registry: &mut Registry, name: &str, help: &str, counts: &BTreeMap<&'static str, u64>) {
    let family = Family::<Labels, Count>::default();
    for (word, count) in counts {
        family.get_or_create(&vec![("state", (*word).to_owned())]).set(*count);
    }
    registry.register(name, help, family);
}

/// The class of the failure that an event tells.
fn failure(event: &Event) -> Option<&'static str> {
    let (Event::AttemptFailed { outcome, .. } | Event::TrialEnded { outcome, .. }) = event else {
        return None;
    };
    match outcome {
        Outcome::Completed { .. } => None,
        Outcome::Diverged { .. } | Outcome::Failed { .. } => Some(outcome.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attempt, FailureClass, Timestamp, TrialId};

    fn ended(outcome: Outcome) -> Record {
        let trial = TrialId::new("00000000000000aa").unwrap();
        let event = Event::TrialEnded { trial, attempt: Attempt(1), outcome };
        Record { sequence: 1, at: Timestamp(0), event }
    }

    #[test]
    fn what_happened_is_counted_under_few_names() {
        let measures = Measures::default();
        let completed = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
        let failed = Outcome::failed(FailureClass::Timeout, "late");
        let diverged = Outcome::Diverged { metric: "loss".into(), step: 1 };
        let records = [completed, failed, diverged].map(ended);
        measures.wrote(640);
        measures.appended(&records, Duration::from_millis(3));
        for path in ["/brine.v1.Coordinator/Submit", "/brine.v1.Coordinator/Submit", "/etc", ""] {
            measures.called(path);
        }
        measures.refused("Submit", tonic::Code::NotFound);
        let seen = Seen { trials: BTreeMap::from([("waiting", 7)]), cpu: 1.5, ..Seen::default() };
        let text = measures.text(&seen);
        for line in [
            "brine_attempts_failed_total{class=\"timeout\"} 1",
            "brine_attempts_failed_total{class=\"diverged\"} 1",
            "brine_journal_appended_bytes_total 640",
            "brine_journal_append_duration_seconds_count 1",
            "brine_requests_total{method=\"Submit\"} 2",
            "brine_requests_total{method=\"other\"} 2",
            "brine_request_errors_total{method=\"Submit\",code=\"NotFound\"} 1",
            "brine_trials{state=\"waiting\"} 7",
            "process_cpu_seconds_total 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("completed"), "{text}");
    }
}
