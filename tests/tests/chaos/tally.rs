//! What was measured: how often each fault came, and how long what took at its worst.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fault::Fault;

/// Numbers of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    faults: BTreeMap<Fault, Entry>,
    /// Seconds until everything was stored again, over all steps.
    pub(crate) recovery: Worst,
    /// Seconds until every consumer was ready again, after everything was stored.
    pub(crate) ready: Worst,
    /// Seconds until every consumer said that it was unready, from the moment that the database was gone.
    pub(crate) unready: Worst,
    /// Seconds until a killed consumer's partitions were stored by others.
    pub(crate) heirs: Worst,
    /// The most memory that any consumer has had, in bytes.
    pub(crate) memory: u64,
}

#[derive(Debug, Default)]
struct Entry {
    times: u32,
    worst: Worst,
}

/// The largest of some numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worst(Option<f64>);

impl Worst {
    pub(crate) fn note(&mut self, seconds: f64) {
        self.0 = Some(self.0.map_or(seconds, |worst| worst.max(seconds)));
    }

    fn text(self) -> String {
        self.0.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
    }
}

impl Tally {
    pub(crate) fn begun(&mut self, fault: Fault) {
        self.faults.entry(fault).or_default().times += 1;
    }

    /// Everything was stored again so many seconds after these faults had ended.
    pub(crate) fn recovered(&mut self, faults: &[Fault], seconds: f64) {
        self.recovery.note(seconds);
        for fault in faults {
            self.faults.entry(*fault).or_default().worst.note(seconds);
        }
    }

    /// The table at the end of a run; `all` are the faults that it could have met.
    pub(crate) fn table(&self, all: &[Fault]) -> String {
        let mut text = format!("{:20} {:>5} {:>15}\n", "fault", "times", "worst recovery");
        for fault in all {
            let (times, worst) =
                self.faults.get(fault).map_or((0, Worst::default()), |entry| (entry.times, entry.worst));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:20} {times:>5} {:>15}", format!("{fault:?}"), worst.text());
        }
        let _ = write!(
            text,
            "worst of all: {} until everything was stored, then {} until all were ready; {} until a killed consumer's \
             partitions flowed; {} until unready without a database; {} MiB of memory",
            self.recovery.text(),
            self.ready.text(),
            self.heirs.text(),
            self.unready.text(),
            self.memory >> 20
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_fault_with_its_worst() {
        let mut tally = Tally::default();
        tally.begun(Fault::KillConsumer);
        tally.begun(Fault::KillConsumer);
        tally.recovered(&[Fault::KillConsumer], 3.0);
        tally.recovered(&[Fault::KillConsumer], 2.0);
        let table = tally.table(&[Fault::KillConsumer, Fault::FullDisk]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["KillConsumer", "2", "3.0", "s"]);
        assert_eq!(lines[2], ["FullDisk", "0", "-"]);
    }
}
