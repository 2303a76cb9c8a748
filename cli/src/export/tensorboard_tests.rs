use super::super::point;
use super::*;
use crate::estimate::tests::command;
use proto::Attempt;

fn trial(parameters: &[(&str, proto::Value)]) -> TrialState {
    let mut spec = command(1);
    spec.parameters.extend(parameters.iter().map(|(name, x)| ((*name).to_owned(), x.clone())));
    TrialState {
        id: spec.id(),
        spec,
        attempts: Attempt(1),
        word: "completed".to_owned(),
        outcome: None,
        agent: None,
        waiting_for: String::new(),
        code_version: String::new(),
        measured: Vec::new(),
    }
}

/// The checksum bit by bit, as its definition says: a division of polynomials.
fn slow_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let out = (crc ^ (u32::from(*byte) >> bit)) & 1;
            crc = (crc >> 1) ^ (out * 0x82f6_3b78);
        }
    }
    !crc
}

fn masked(bytes: &[u8]) -> u32 {
    // Turned by 15 bits: the low half of the same number written twice.
    let crc = u64::from(slow_crc32c(bytes));
    let turned = ((crc << 32 | crc) >> 15) & 0xffff_ffff;
    ((turned + 0xa282_ead8) & 0xffff_ffff) as u32
}

/// A number of the wire format: seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for place in 0.. {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of an encoded message: number and content, numbers as eight bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                let value = varint(&mut bytes);
                fields.push((key >> 3, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            kind => panic!("unknown kind {kind}"),
        };
        let (content, rest) = bytes.split_at(length);
        fields.push((key >> 3, content.to_vec()));
        bytes = rest;
    }
    fields
}

/// The contents of the records of a file, each with both checksums compared.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(12);
        let (length, crc) = head.split_at(8);
        assert_eq!(crc, masked(length).to_le_bytes());
        let (content, rest) =
            rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (crc, rest) = rest.split_at(4);
        assert_eq!(crc, masked(content).to_le_bytes());
        records.push(content.to_vec());
        bytes = rest;
    }
    records
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(b""), 0);
    for length in [1, 8, 255, 256, 1_000] {
        let bytes: Vec<u8> = (0..length).map(|i: u32| (i * 7 % 251) as u8).collect();
        assert_eq!(crc32c(&bytes), slow_crc32c(&bytes));
    }
}

#[test]
fn an_event_file_can_be_read_without_the_code_that_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut series = Folder::new(folder.path(), 1_500_250).begin(&trial(&[]), 0).unwrap();
    series.point(&point("loss", 300, 2.5)).unwrap();
    series.point(&point("accuracy", 0, 0.0)).unwrap();
    let path = series.finish().unwrap();
    assert_eq!(path.file_name().unwrap(), "events.out.tfevents.1500.brine");
    let records = records(&std::fs::read(path).unwrap());
    let time = (1, 1_500.25_f64.to_le_bytes().to_vec());
    assert_eq!(fields(&records[0]), [time.clone(), (3, b"brain.Event:2".to_vec())]);
    let value = |record: &[u8]| {
        let fields_of_event = fields(record);
        let (number, summary) = fields_of_event.last().unwrap();
        assert_eq!(*number, 5);
        let value = &fields(summary)[0];
        assert_eq!(value.0, 1);
        fields(&value.1)
    };
    assert_eq!(fields(&records[1])[..2], [time, (2, 300_u64.to_le_bytes().to_vec())]);
    let loss = [(1, b"loss".to_vec()), (2, 2.5_f32.to_le_bytes().to_vec())];
    assert_eq!(value(&records[1]), loss);
    // A zero is a value: it must be there.
    let accuracy = [(1, b"accuracy".to_vec()), (2, 0.0_f32.to_le_bytes().to_vec())];
    assert_eq!(value(&records[2]), accuracy);
    assert_eq!(records.len(), 3);
}

#[test]
fn a_folder_is_named_after_the_trial_and_stays_inside() {
    let text = |text: &str| proto::Value::Text(text.to_owned());
    for (parameters, label) in [
        (vec![], String::new()),
        (
            vec![("lr", proto::Value::Number(0.1)), ("n", proto::Value::Integer(3))],
            "_lr=0.1000_n=3".into(),
        ),
        (vec![("path", text("../é b"))], "_path=..___b".into()),
        (vec![("x", text(&"y".repeat(500)))], format!("_x={}", "y".repeat(LABEL_CHARS_MAX - 2))),
    ] {
        let trial = trial(&parameters);
        assert_eq!(folder_name(&trial), format!("{}{label}", trial.id));
    }
}

#[test]
fn members_of_a_gang_have_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut gang = trial(&[]);
    gang.spec.placement.members = 2;
    let mut series = Folder::new(folder.path(), 1_500_250).begin(&gang, 1).unwrap();
    series.point(&point("loss", 300, 2.5)).unwrap();
    let path = series.finish().unwrap();
    assert_eq!(path.parent().unwrap(), folder.path().join(folder_name(&gang)).join("rank-1"));
}
