//! Bytes per second of a checkpoint's save and load, hashes and syncs included. Beside them the
//! disk's own speed: the same bytes in one plain file, written and synced, or read.
#![expect(clippy::unwrap_used, reason = "a bench")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proto::{AgentId, Attempt, BlobId, Mlp, ModelSpec, Norm, Positions};
use std::fs::{self, File};
use std::io::Write as _;
use trainer::checkpoint::{Contents, MomentPlace, Snapshot, State, load, save};
use trainer::parameters::Layout;

fn model(width: u32, layers: u32) -> ModelSpec {
    ModelSpec {
        vocabulary: 256,
        sequence: 128,
        width,
        layers,
        heads: width / 16,
        mlp_width: 4 * width,
        mlp: Mlp::Gelu,
        tied: false,
        positions: Positions::Rotary,
        norm: Norm::RmsNorm,
    }
}

fn bench(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let agent = AgentId::new("bench").unwrap();
    let mut group = criterion.benchmark_group("checkpoint");
    group.sample_size(20);
    for (width, layers) in [(64, 2), (512, 8)] {
        let layout = Layout::of(&model(width, layers));
        let bytes = layout.initial_values(1).unwrap();
        let size = 3 * bytes.len();
        let snapshot = Snapshot {
            state: State::new(1, BlobId::from_hash(blake3::hash(b"text"))),
            parameters: bytes.clone().into(),
            moments: vec![bytes.clone().into(), bytes.clone().into()],
            second: None,
        };
        let all = 0..layout.entries().len();
        let moments = ["first_moment.", "second_moment."]
            .map(|prefix| MomentPlace { prefix, entries: all.clone() });
        let contents = Contents { layout: &layout, moments: &moments, second: None };
        let name = format!("{:.1}_MB", size as f64 / 1e6);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("save", &name), |bencher| {
            bencher.iter(|| {
                let parent = tempfile::tempdir_in(folder.path()).unwrap();
                save(parent.path(), Attempt(1), &agent, &contents, &snapshot).unwrap()
            });
        });
        let plain = vec![7_u8; size];
        let path = folder.path().join("plain");
        group.bench_function(BenchmarkId::new("plain_write_and_sync", &name), |bencher| {
            bencher.iter(|| {
                let mut file = File::create(&path).unwrap();
                file.write_all(&plain).unwrap();
                file.sync_all().unwrap();
            });
        });
        let saved = save(folder.path(), Attempt(1), &agent, &contents, &snapshot).unwrap();
        group.bench_function(BenchmarkId::new("load", &name), |bencher| {
            bencher.iter(|| load(&saved, &contents).unwrap());
        });
        group.bench_function(BenchmarkId::new("plain_read", &name), |bencher| {
            bencher.iter(|| fs::read(&path).unwrap());
        });
        fs::remove_dir_all(&saved.folder).unwrap();
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
