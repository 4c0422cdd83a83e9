//! PostgreSQL's binary COPY format (documentation of COPY, "Binary Format") for the events table.

use crate::batch::{Batch, Row};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Columns of a row, in the order of `Statements::copy`.
const COLUMNS: i16 = 6;
/// Microseconds between 1970-01-01 and PostgreSQL's epoch, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The only version of jsonb's binary form, a byte before the text.
const JSONB_VERSION: u8 = 1;

/// Signature, no flags, no header extension.
pub(super) fn header(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(SIGNATURE);
    buffer.extend_from_slice(&[0; 8]);
}

/// One row.
pub(super) fn row(batch: &Batch, row: &Row, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&COLUMNS.to_be_bytes());
    field(buffer, batch.event_type(row).as_bytes());
    field(buffer, &row.user_id);
    field(buffer, batch.service(row).as_bytes());
    field(buffer, &(row.timestamp_micros - EPOCH_MICROS).to_be_bytes());
    let data = batch.data(row).as_bytes();
    buffer.extend_from_slice(&(data.len() as i32 + 1).to_be_bytes());
    buffer.push(JSONB_VERSION);
    buffer.extend_from_slice(data);
    field(buffer, &row.key);
}

/// The end of the data.
pub(super) fn trailer(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&(-1_i16).to_be_bytes());
}

fn field(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    buffer.extend_from_slice(bytes);
}
