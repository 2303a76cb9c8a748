//! Records per second that the journal makes durable, by batch size: one flush per batch. Beside
//! it the disk's own limit: a plain file that is appended to and synced once per batch.
#![expect(clippy::unwrap_used, reason = "a bench")]

use coordinator::store::Store;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proto::{Attempt, Event, Record, Timestamp, TrialId};
use std::fs::File;
use std::io::Write as _;

fn record(sequence: u64) -> Record {
    let trial = TrialId::new("0123456789abcdef").unwrap();
    let event = Event::AttemptStarted { trial, attempt: Attempt(1) };
    Record { sequence, at: Timestamp(sequence), event }
}

fn bench(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let mut file = File::create(folder.path().join("plain")).unwrap();
    let mut group = criterion.benchmark_group("journal");
    let mut sequence = 0;
    for size in [1, 10, 100, 1_000] {
        group.throughput(Throughput::Elements(size)).sample_size(30);
        group.bench_function(BenchmarkId::new("append_and_flush", size), |bencher| {
            bencher.iter(|| {
                let records: Vec<_> = (sequence + 1..=sequence + size).map(record).collect();
                sequence += size;
                store.append(&records).unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("plain_file_and_sync", size), |bencher| {
            bencher.iter(|| {
                let records = (1..=size).map(record);
                let lines = records.map(|record| serde_json::to_string(&record).unwrap() + "\n");
                file.write_all(lines.collect::<String>().as_bytes()).unwrap();
                file.sync_data().unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
