//! Windows of every kind of data, and what each refuses.

use super::*;
use proptest::prelude::*;
use proto::BlobRef;
use std::collections::BTreeSet;

/// Opens `content` with windows of 4 tokens.
fn open(content: &[u8], format: TokenFormat, held_out: f64, seed: u64) -> Text {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let text =
        BlobRef { blob: BlobId::from_hash(blake3::hash(content)), bytes: content.len() as u64 };
    let spec = DataSpec { text, format, held_out, packing: Packing::Stream, tokenizer: None };
    Text::open(file.path(), &spec, &Encoding::BYTES, 1 << 16, 4, seed).unwrap()
}

fn counting(len: u16) -> Vec<u8> {
    (0..len).flat_map(u16::to_le_bytes).collect()
}

// Goal: every training window exactly once per epoch, targets one after the inputs, and never
// a held-out token. The tokens are their own places.
#[test]
fn an_epoch_shows_every_training_window_once_and_no_held_out_token() {
    for (len, held_out) in [(100, 0.1), (101, 0.3), (23, 0.5), (1_000, 0.01)] {
        let text = open(&counting(len), TokenFormat::U16, held_out, 3);
        let windows = text.training_windows();
        let training = u64::from(len) - (f64::from(len) * held_out).round() as u64;
        for epoch in 0..3 {
            let steps = epoch * windows..(epoch + 1) * windows;
            let mut starts = BTreeSet::new();
            for step in steps {
                let batch = text.batch(step, 1);
                let start = batch.inputs[0];
                let expected: Vec<i64> = (start..start + 5).collect();
                assert_eq!(batch.inputs, expected[..4]);
                assert_eq!(batch.targets, expected[1..]);
                assert!(batch.targets.iter().all(|&t| (t as u64) < training));
                starts.insert(start);
            }
            let all: BTreeSet<i64> = (0..windows as i64).map(|window| 4 * window).collect();
            assert_eq!(starts, all, "{len} tokens, epoch {epoch}");
        }
        assert_eq!(windows, (training - 1) / 4);
    }
}

#[test]
fn the_held_out_windows_begin_after_the_training_text() {
    let text = open(&counting(100), TokenFormat::U16, 0.2, 3);
    let windows = text.held_out_windows();
    assert_eq!(windows, 4);
    let all = text.held_out(0, windows);
    assert_eq!(all.inputs, (80..96).collect::<Vec<i64>>());
    assert_eq!(all.targets, (81..97).collect::<Vec<i64>>());
    assert_eq!(text.held_out(2, 1).inputs, [88, 89, 90, 91]);
}

// Goal: the order is a function of the seed and the place in the order, however it is cut.
#[test]
fn the_order_does_not_depend_on_the_size_of_the_batches() {
    let text = open(&counting(100), TokenFormat::U16, 0.1, 3);
    let one_by_one: Vec<i64> = (0..60).flat_map(|step| text.batch(step, 1).inputs).collect();
    let by_six: Vec<i64> = (0..10).flat_map(|step| text.batch(step, 6).inputs).collect();
    assert_eq!(one_by_one, by_six);
    let again = open(&counting(100), TokenFormat::U16, 0.1, 3);
    assert_eq!(again.batch(7, 6), text.batch(7, 6));
    let other = open(&counting(100), TokenFormat::U16, 0.1, 4);
    assert_ne!(other.batch(0, 6), text.batch(0, 6));
    let epochs = text.training_windows();
    assert_ne!(text.batch(0, epochs as u32), text.batch(1, epochs as u32));
}

#[test]
fn bytes_are_tokens() {
    let text = open(b"abcdefghijklmnopqrstuvwxyz", TokenFormat::Bytes, 0.5, 0);
    assert_eq!(text.held_out(0, 1).inputs, b"nopq".map(i64::from));
    assert_eq!(text.held_out(0, 1).targets, b"opqr".map(i64::from));
}

#[test]
fn half_a_token_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"abc").unwrap();
    let text = BlobRef { blob: BlobId::from_hash(blake3::hash(b"abc")), bytes: 3 };
    let spec = DataSpec {
        text,
        format: TokenFormat::U16,
        held_out: 0.5,
        packing: Packing::Stream,
        tokenizer: None,
    };
    let error = Text::open(file.path(), &spec, &Encoding::BYTES, 1 << 16, 4, 0).unwrap_err();
    assert!(matches!(error, DataError::OddLength { bytes: 3, .. }), "{error}");
}

/// Opens `content` with windows of 4 tokens, or says why not.
fn try_open(content: &[u8], format: TokenFormat, packing: Packing) -> Result<Text, String> {
    let file = written(content);
    let text =
        BlobRef { blob: BlobId::from_hash(blake3::hash(content)), bytes: content.len() as u64 };
    let spec = DataSpec { text, format, held_out: 0.3, packing, tokenizer: None };
    let opened = Text::open(file.path(), &spec, &Encoding::BYTES, 257, 4, 3);
    opened.map_err(|error| {
        let path = file.path().display().to_string();
        let words = error.to_string();
        assert!(words.contains(&path) || matches!(error, DataError::Short { .. }), "{words}");
        words.replace(&path, "FILE")
    })
}

fn written(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

fn shard(tokens: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    shards::write(&mut bytes, tokens).unwrap();
    bytes
}

// Goal: shards are the tokens that were written, across their borders, and an empty one is none.
#[test]
fn shards_are_one_text() {
    let content = [shard(&[0, 1, 2]), shard(&[]), shard(&[3, 4, 5, 6, 7, 8, 9]), shard(&[10])];
    let text = try_open(&content.concat(), TokenFormat::Shards, Packing::Stream);
    assert!(text.unwrap_err().contains("held-out text has 3 tokens"));
    let tokens: Vec<u16> = (10..30).collect();
    let content = [&content.concat()[..], &shard(&tokens)[..]].concat();
    let text = open(&content, TokenFormat::Shards, 0.5, 3);
    let mut all = Vec::new();
    text.source.extend(&mut all, 0..31);
    let wanted: Vec<i64> = (0..=10).chain(10..30).collect();
    assert_eq!(all, wanted);
    for start in 0..26 {
        let mut part = Vec::new();
        text.source.extend(&mut part, start..start + 5);
        assert_eq!(part, wanted[start as usize..start as usize + 5]);
    }
    // The layout of llm.c, byte by byte.
    let bytes = shard(&[0x0102, 3]);
    assert_eq!(bytes.len(), 1024 + 4);
    assert_eq!(bytes[..12], [0x88, 0xd8, 0x34, 0x01, 1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(bytes[1024..], [2, 1, 3, 0]);
    assert!(bytes[12..1024].iter().all(|&byte| byte == 0));
}

#[test]
fn a_wrong_shard_is_named_with_its_place() {
    let good = shard(&[1; 40]);
    let edit = |at: usize, value: i32| {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        [&good[..], &bad].concat()
    };
    let hint = "; `shards` is for files with the header of llm.c, bare tokens of two bytes are \
                `u16`";
    for (content, expected) in [
        (edit(0, 7), "shard 2, at byte 1104: it begins with 7 instead of 20240520"),
        (
            edit(4, 2),
            "shard 2, at byte 1104: its version is 2, only 1 (tokens of two bytes) is read",
        ),
        (edit(8, -1), "shard 2, at byte 1104: it promises -1 tokens, a number below 0"),
        (
            good[..1054].to_vec(),
            "shard 1, at byte 0: it promises 40 tokens, only 15 follow: the file was cut short",
        ),
        (good[..1000].to_vec(), "shard 1, at byte 0: the header has 1000 of 1024 bytes"),
    ] {
        let found = try_open(&content, TokenFormat::Shards, Packing::Stream).unwrap_err();
        assert_eq!(found, format!("the data FILE: {expected}{hint}"));
    }
    let found = try_open(&shard(&[1, 2, 300, 4]), TokenFormat::Shards, Packing::Stream);
    let expected = "the data FILE has token 300 at place 2; the vocabulary has 257";
    assert_eq!(found.unwrap_err(), expected);
}

#[test]
fn a_wrong_line_is_named_with_its_place() {
    let hint = "; every line must be one JSON object with the document as the text \"text\"";
    for (line, expected) in [
        ("{\"text\": 3}", "column 10: invalid type: integer `3`, expected a string"),
        ("{\"txt\": \"a\"}", "column 12: missing field `text`"),
        ("{\"text\": \"a\"", "column 12: EOF while parsing an object"),
        ("a", "column 1: expected value"),
        ("{\"text\": \"a\"} {}", "column 15: trailing characters"),
    ] {
        let content = format!("{{\"text\": \"first\"}}\n\n{line}\n");
        let error = try_open(content.as_bytes(), TokenFormat::Jsonl, Packing::Stream).unwrap_err();
        assert_eq!(error, format!("the data FILE, line 3, {expected}{hint}"));
    }
}

const DOCUMENTS: &str = r#"{"text": "ab"}
{"text": "c", "url": "x"}
{"text": "defghijklm"}

{"text": "\u00e9\n"}
{"text": ""}
{"text": "nopqrstu"}
"#;

// Goal: documents in their order, each with its end; the held-out text begins with a document.
#[test]
fn documents_are_a_stream_that_is_split_between_two() {
    let text = try_open(DOCUMENTS.as_bytes(), TokenFormat::Jsonl, Packing::Stream).unwrap();
    let mut all = Vec::new();
    text.source.extend(&mut all, 0..text.source.len());
    let wanted = [&b"ab"[..], b"c", b"defghijklm", "é\n".as_bytes(), b"", b"nopqrstu"];
    let wanted: Vec<i64> = wanted
        .iter()
        .flat_map(|document| document.iter().map(|&b| i64::from(b)).chain([256]))
        .collect();
    assert_eq!(all, wanted);
    assert_eq!(text.held_out(0, 2).inputs, b"nopqrstu".map(i64::from));
    assert_eq!(text.training_windows(), 5);
}

// Goal: no window begins inside a document that would have fitted, none holds more than one part
// of a long one, and every token but a window's first is scored once.
#[test]
fn packed_windows_begin_with_documents() {
    let text = try_open(DOCUMENTS.as_bytes(), TokenFormat::Jsonl, Packing::Documents).unwrap();
    let Windowing::Documents(windows) = &text.training else { panic!("packed by documents") };
    // ab. c. | defgh | hijkl | lm. | é n . . : starts and scored targets.
    assert_eq!(windows, &[(0, 4), (5, 4), (9, 4), (13, 2), (16, 4)]);
    let batch = text.windows(&windows[3..4]);
    assert_eq!(batch.inputs, [i64::from(b'l'), i64::from(b'm'), 256, 256]);
    assert_eq!(batch.targets, [i64::from(b'm'), 256, -100, -100]);
    assert_eq!(batch.scored, 2);
    let held_out = text.held_out(0, text.held_out_windows());
    assert_eq!((held_out.sequences, held_out.scored), (2, 8));
}

// Goal: the order of the data does not depend on how many share a batch.
#[test]
fn shares_of_a_batch_are_the_batch() {
    for (content, format, packing) in [
        (counting(150), TokenFormat::U16, Packing::Stream),
        (shard(&[7; 90]), TokenFormat::Shards, Packing::Stream),
        (DOCUMENTS.into(), TokenFormat::Jsonl, Packing::Stream),
        (DOCUMENTS.into(), TokenFormat::Jsonl, Packing::Documents),
    ] {
        let text = try_open(&content, format, packing).unwrap();
        for step in 0..20 {
            let batch = text.batch(step, 6);
            for shares in 1..=7 {
                let parts: Vec<_> = (0..shares).map(|s| text.share(step, 6, s, shares)).collect();
                assert!(parts.iter().all(|part| part.batch_scored == batch.scored));
                let parts: Vec<_> = parts.into_iter().map(|part| part.windows).collect();
                let lens: Vec<u64> = parts.iter().map(|part| part.sequences).collect();
                assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1, "{lens:?}");
                let whole = Windows {
                    sequences: lens.iter().sum(),
                    inputs: parts.iter().flat_map(|part| part.inputs.clone()).collect(),
                    targets: parts.iter().flat_map(|part| part.targets.clone()).collect(),
                    scored: parts.iter().map(|part| part.scored).sum(),
                };
                assert_eq!(whole, batch);
            }
        }
    }
}

#[test]
fn a_tokenizer_that_is_too_large_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), DOCUMENTS).unwrap();
    let bytes = DOCUMENTS.len() as u64;
    let text = BlobRef { blob: BlobId::from_hash(blake3::hash(DOCUMENTS.as_bytes())), bytes };
    let format = TokenFormat::Jsonl;
    let spec = DataSpec { text, format, held_out: 0.3, packing: Packing::Stream, tokenizer: None };
    let error = Text::open(file.path(), &spec, &Encoding::BYTES, 256, 4, 0).unwrap_err();
    let expected = "the tokenizer has 257 tokens, end of document included, the vocabulary of \
                    the model has 256; make the vocabulary at least 257";
    assert_eq!(error.to_string(), expected);
}

proptest! {
    // No seed from the clock: the same inputs on every machine, as in CI.
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_240_520),
        ..ProptestConfig::default()
    })]

    // Goal: whatever the bytes are, a reader gives windows of tokens that the model knows, or an
    // error that names the file. Whole files with a few bytes changed and the end cut off reach
    // further into the readers than random bytes do.
    #[test]
    fn damaged_files_are_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<Option<prop::sample::Index>>(),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        kind in 0..5_usize,
    ) {
        let shards = [shard(&[5; 30]), shard(&[200; 20])].concat();
        let seeds = [&shards[..], DOCUMENTS.as_bytes(), DOCUMENTS.as_bytes(), &noise, &noise];
        let mut content = seeds[kind].to_vec();
        for (place, value) in edits {
            if kind == 0 && value & 1 == 0 {
                content[place.index(12)] = value; // In the header, which is small in the file.
            } else if !content.is_empty() {
                let place = place.index(content.len());
                content[place] = value;
            }
        }
        if let Some(cut) = cut.filter(|_| !content.is_empty()) {
            content.truncate(cut.index(content.len()));
        }
        prop_assume!(!content.is_empty());
        let format = [
            TokenFormat::Shards,
            TokenFormat::Jsonl,
            TokenFormat::Jsonl,
            TokenFormat::Shards,
            TokenFormat::Jsonl,
        ][kind];
        let packing = if kind == 2 { Packing::Documents } else { Packing::Stream };
        if let Ok(text) = try_open(&content, format, packing) {
            for windows in [text.batch(3, 5), text.held_out(0, text.held_out_windows())] {
                prop_assert!(windows.inputs.iter().all(|token| (0..257).contains(token)));
                let scored = windows.targets.iter().filter(|target| **target != NOT_SCORED);
                prop_assert_eq!(scored.count() as u64, windows.scored);
                prop_assert!(windows.scored > 0);
                prop_assert_eq!(windows.inputs.len() as u64, windows.sequences * 4);
            }
        }
    }
}
