//! Exactly what was made, to compare with what arrived.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Kind, Malformation, Record};

/// What a generator made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Different good events: the rows a table must have afterwards.
    pub distinct: u64,
    /// Records that repeat an earlier event.
    pub duplicates: u64,
    /// Records that cannot be stored, by kind: the dead letters there must be.
    pub malformed: BTreeMap<Malformation, u64>,
    /// Records by partition.
    pub partitions: BTreeMap<i32, u64>,
    /// Bytes of all payloads.
    pub payload_bytes: u64,
}

impl Counts {
    /// All records.
    pub fn produced(&self) -> u64 {
        self.distinct + self.duplicates + self.malformed_total()
    }

    /// All records that cannot be stored.
    pub fn malformed_total(&self) -> u64 {
        self.malformed.values().sum()
    }

    pub(super) fn add(&mut self, record: &Record) {
        match record.kind {
            Kind::Distinct => self.distinct += 1,
            Kind::Duplicate => self.duplicates += 1,
            Kind::Malformed(malformation) => *self.malformed.entry(malformation).or_default() += 1,
        }
        *self.partitions.entry(record.partition).or_default() += 1;
        self.payload_bytes += record.payload.as_ref().map_or(0, Vec::len) as u64;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "produced    {:>10}  records, {} bytes of payload",
            self.produced(),
            self.payload_bytes
        )?;
        writeln!(formatter, "distinct    {:>10}  good events", self.distinct)?;
        writeln!(formatter, "duplicates  {:>10}  repeat an earlier event", self.duplicates)?;
        writeln!(formatter, "malformed   {:>10}  cannot be stored", self.malformed_total())?;
        for (malformation, count) in &self.malformed {
            writeln!(formatter, "            {count:>10}  {malformation}")?;
        }
        for (partition, count) in &self.partitions {
            writeln!(formatter, "partition {partition:<3} {count:>8}")?;
        }
        Ok(())
    }
}
