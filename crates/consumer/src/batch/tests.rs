use super::*;
use crate::event;

const LIMITS: BatchLimits = BatchLimits { max_events: 3, max_bytes: 4096 };

fn payload(event_type: &str) -> Vec<u8> {
    format!(
        r#"{{"event_type":"{event_type}","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"auth","timestamp":"2024-11-09T10:30:00Z","data":{{"k":1}}}}"#
    )
    .into_bytes()
}

fn record(partition: i32, offset: i64, payload: &[u8]) -> Record<'_> {
    Record {
        partition,
        offset,
        timestamp_millis: Some(1),
        key: Some(b"key"),
        payload: Some(payload),
        headers: &[],
    }
}

fn push(batch: &mut Batch, partition: i32, offset: i64, key: u8, event_type: &str) {
    let payload = payload(event_type);
    let event = event::parse(&payload, 4096).expect("good");
    batch.advance(partition, 1, 10, offset);
    batch.push_event(&record(partition, offset, &payload), &event, [key; 16]);
}

#[test]
fn rows_read_back_what_was_written_with_and_without_escapes() {
    let mut batch = Batch::default();
    push(&mut batch, 0, 10, 1, "user_login");
    push(&mut batch, 0, 11, 2, r"user\u005flogout");
    let texts: Vec<_> =
        batch.rows().iter().map(|row| (batch.event_type(row), batch.service(row), batch.data(row))).collect();
    assert_eq!(texts, [("user_login", "auth", r#"{"k":1}"#), ("user_logout", "auth", r#"{"k":1}"#)]);
}

#[test]
fn duplicates_inside_a_batch_keep_the_first_record() {
    let mut batch = Batch::default();
    push(&mut batch, 0, 10, 2, "a");
    push(&mut batch, 0, 11, 1, "b");
    push(&mut batch, 0, 12, 2, "c");
    batch.sort_and_deduplicate();
    let offsets: Vec<_> = batch.rows().iter().map(|row| row.offset).collect();
    assert_eq!(offsets, [11, 10]);
    assert_eq!(batch.duplicates().count(), 1);
    batch.remove_known(|key| key[0] == 1);
    assert_eq!((batch.rows().len(), batch.duplicates().count()), (1, 2));
}

#[test]
fn offsets_follow_the_records_and_gaps_are_no_matter() {
    let mut batch = Batch::default();
    batch.advance(0, 1, 10, 10);
    batch.advance(0, 1, 10, 17);
    batch.advance(3, 2, 0, 5);
    let expected = [
        Progress { partition: 0, generation: 1, from: 10, to: 18, records: 2, log_end: 0 },
        Progress { partition: 3, generation: 2, from: 0, to: 6, records: 1, log_end: 0 },
    ];
    assert_eq!(batch.progress(), expected);
}

#[test]
fn a_forgotten_partition_leaves_nothing_behind() {
    let mut batch = Batch::default();
    push(&mut batch, 0, 10, 1, "a");
    push(&mut batch, 1, 10, 2, "b");
    batch.advance(0, 1, 10, 11);
    batch.push_dead_letter(&record(0, 11, b"x"), Reason::InvalidJson, "no".into());
    batch.retain_partitions(|progress| progress.partition != 0);
    assert_eq!((batch.rows().len(), batch.dead_letters().len(), batch.progress().len()), (1, 0, 1));
}

#[test]
fn a_refused_row_becomes_a_dead_letter_with_its_record() {
    let mut batch = Batch::default();
    push(&mut batch, 4, 10, 1, "a");
    batch.refuse_rows(vec![(0, "value out of range".into())]);
    let letter = &batch.dead_letters()[0];
    assert_eq!((letter.partition, letter.offset, letter.reason), (4, 10, Reason::RefusedByDatabase));
    assert_eq!(letter.payload.as_deref(), Some(payload("a").as_slice()));
    assert_eq!(letter.key.as_deref(), Some(b"key".as_slice()));
    assert!(batch.rows().is_empty());
}

#[test]
fn the_twin_of_a_refused_row_takes_its_place() {
    let mut batch = Batch::default();
    push(&mut batch, 0, 10, 1, "a");
    push(&mut batch, 0, 11, 1, "b");
    batch.sort_and_deduplicate();
    push(&mut batch, 0, 12, 0, "c");
    push(&mut batch, 0, 13, 9, "d");
    batch.sort_and_deduplicate();
    let refused = [0, 1, 2].map(|index| (index, "value out of range".to_owned()));
    assert_eq!(batch.refuse_rows(refused.into()), [0], "of three refused rows one has a twin");
    assert_eq!((batch.rows().len(), batch.rows()[0].offset, batch.duplicates().count()), (1, 11, 0));
    let mut refused: Vec<_> = batch.dead_letters().iter().map(|letter| letter.offset).collect();
    refused.sort_unstable();
    assert_eq!(refused, [10, 12, 13]);
}

#[test]
fn limits_count_events_and_bytes() {
    let mut batch = Batch::default();
    assert!(!batch.is_full(&LIMITS) && batch.is_empty());
    for offset in 10..13 {
        push(&mut batch, 0, offset, 1, "a");
    }
    assert!(batch.is_full(&LIMITS));
    batch.clear(&LIMITS);
    assert!(batch.is_empty() && !batch.is_full(&LIMITS));
    batch.advance(0, 1, 1, 1);
    batch.push_dead_letter(&record(0, 1, &[b'x'; 5000]), Reason::InvalidJson, String::new());
    assert!(batch.is_full(&LIMITS));
}

/// A batch that is full by bytes and loses all its partitions must not stay full: nobody takes an empty one.
#[test]
fn an_empty_batch_is_never_full() {
    let limits = BatchLimits { max_events: 100, max_bytes: 250 };
    let mut batch = Batch::default();
    push(&mut batch, 0, 10, 1, "a");
    batch.advance(1, 1, 0, 0);
    batch.push_dead_letter(&record(1, 0, &[b'x'; 500]), Reason::InvalidJson, "no".into());
    batch.retain_partitions(|progress| progress.partition != 1);
    assert!(!batch.is_full(&limits), "the dead letter is gone, with its {} bytes", batch.bytes());
    push(&mut batch, 0, 11, 2, "a");
    assert!(batch.is_full(&limits));
    batch.retain_partitions(|_| false);
    assert!(batch.is_empty() && !batch.is_full(&limits));
    assert_eq!((batch.bytes(), batch.rows().len(), batch.first_read()), (0, 0, None));
}

/// The row for which a twin was set aside goes to another consumer: then the twin is all that is left of the event here.
#[test]
fn a_twin_stays_when_its_rows_partition_goes() {
    let mut batch = Batch::default();
    push(&mut batch, 0, 10, 7, "a");
    push(&mut batch, 1, 10, 7, "b");
    push(&mut batch, 2, 10, 7, "c");
    push(&mut batch, 2, 11, 5, "d");
    push(&mut batch, 2, 12, 3, "e");
    batch.sort_and_deduplicate();
    batch.remove_known(|key| key[0] == 5);
    batch.retain_partitions(|progress| progress.partition != 0);
    let rows: Vec<_> = batch.rows().iter().map(|row| (row.key[0], row.partition, row.offset)).collect();
    assert_eq!(rows, [(3, 2, 12), (7, 1, 10)]);
    let duplicates: Vec<_> = batch.duplicates().map(|row| (row.key[0], row.offset)).collect();
    assert_eq!(duplicates, [(7, 10), (5, 11)], "what is in the table stays a duplicate");
}

#[test]
fn a_batch_takes_in_what_was_read_after_it() {
    let (mut batch, mut later) = (Batch::default(), Batch::default());
    push(&mut batch, 0, 10, 2, "first");
    push(&mut batch, 1, 10, 4, "gone");
    later.advance(0, 1, 11, 11);
    let text = payload(r"es\u0063aped");
    let event = event::parse(&text, 4096).expect("good");
    later.push_event(&record(0, 11, &text), &event, [1; 16]);
    later.advance(1, 2, 10, 10);
    later.push_dead_letter(&record(1, 10, b"x"), Reason::InvalidJson, "no".into());
    batch.absorb(&mut later);
    batch.sort_and_deduplicate();
    let rows: Vec<_> = batch.rows().iter().map(|row| (row.offset, batch.event_type(row))).collect();
    assert_eq!(rows, [(11, "escaped"), (10, "first")], "the older assignment of partition 1 is forgotten");
    assert_eq!(batch.data(&batch.rows()[0]), r#"{"k":1}"#);
    let progress: Vec<_> = batch.progress().iter().map(|p| (p.partition, p.from, p.to, p.records)).collect();
    assert_eq!(progress, [(0, 10, 12, 2), (1, 10, 11, 1)]);
    assert_eq!((batch.dead_letters().len(), batch.bytes() > 64), (1, true));
    assert!(later.is_empty() && later.bytes() == 0);
}
