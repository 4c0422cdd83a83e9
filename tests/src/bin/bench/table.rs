//! The figures of each run, and the one table of them all.

use std::fmt::Write as _;

/// What a run is compared as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    #[default]
    Other,
    /// What everything is compared with.
    Floor,
    /// The consumer with its defaults.
    Consumer,
    /// The same without rollups.
    WithoutRollups,
    /// Another variant of the consumer.
    Variant,
    /// The consumer with a backlog.
    Backlog,
    /// What that is compared with: the same rows.
    BacklogFloor,
    /// Somebody else's consumer that deduplicates.
    Peer,
    /// The consumer and a table that holds so many rows.
    Growth(u64),
}

/// What one run has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// What was run.
    pub(crate) name: String,
    /// What it is compared as.
    pub(crate) role: Role,
    /// Records read, or rows copied.
    pub(crate) records: u64,
    /// From the start of the process to its last commit.
    pub(crate) seconds: f64,
    /// Records per second between the first and the last commit, without those of the first.
    pub(crate) flowing: Option<f64>,
    /// CPU time of the process, user and system.
    pub(crate) cpu_seconds: Option<f64>,
    /// The most memory it had, resident.
    pub(crate) peak_bytes: Option<u64>,
    /// CPU time of the whole machine, servers included.
    pub(crate) machine_seconds: f64,
    /// What the server has written to its log (WAL) meanwhile.
    pub(crate) wal_bytes: u64,
    /// Why the result is wrong, if it is.
    pub(crate) wrong: Option<String>,
}

impl Figures {
    /// Records per second from the start of the process.
    pub(crate) fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// Seconds, per million records.
    pub(crate) fn per_million(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.records as f64
    }

    fn cells(&self, floor: f64) -> [String; 10] {
        let blank = || "–".to_owned();
        [
            self.name.clone(),
            grouped(self.records),
            grouped(self.rate() as u64),
            format!("{:.2}", self.rate() / floor),
            self.flowing.map_or_else(blank, |rate| grouped(rate as u64)),
            self.cpu_seconds.map_or_else(blank, |seconds| format!("{:.2}", self.per_million(seconds))),
            self.peak_bytes.map_or_else(blank, |bytes| format!("{:.1}", mebibytes(bytes))),
            format!("{:.1}", self.per_million(self.machine_seconds)),
            grouped(self.wal_bytes / self.records.max(1)),
            self.wrong.clone().unwrap_or_else(|| "right".to_owned()),
        ]
    }
}

/// The run in the middle of several of the same, by its time, with the highest memory and any mistake of them all.
pub(crate) fn median(mut runs: Vec<Figures>, role: Role) -> Option<Figures> {
    runs.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let (count, middle) = (runs.len(), runs.get(runs.len() / 2)?.clone());
    Some(Figures {
        name: format!("{}, median of {count}", middle.name),
        role,
        peak_bytes: runs.iter().filter_map(|run| run.peak_bytes).max(),
        wrong: runs.into_iter().find_map(|run| run.wrong),
        ..middle
    })
}

/// Bytes in mebibytes.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const HEADINGS: [&str; 10] = [
    "run",
    "records",
    "events/s",
    "× floor",
    "from the first row",
    "CPU-s per million",
    "peak RSS MiB",
    "machine CPU-s per million",
    "WAL bytes per event",
    "count",
];

/// Renders a Markdown table that is also readable as it is. The first run is the floor.
pub(crate) fn render(runs: &[Figures]) -> String {
    let floor = runs.first().map_or(f64::NAN, Figures::rate);
    let rows: Vec<[String; 10]> = runs.iter().map(|run| run.cells(floor)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(HEADINGS[column].chars().count())
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut text = line(&HEADINGS.map(str::to_owned), &widths);
    for (column, width) in widths.iter().enumerate() {
        let _ = write!(text, "|-{}{}", "-".repeat(*width), if column == 0 { "-" } else { ":" });
    }
    text.push_str("|\n");
    rows.iter().for_each(|row| text.push_str(&line(row, &widths)));
    text
}

fn line(cells: &[String; 10], widths: &[usize]) -> String {
    let mut text = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - cell.chars().count());
        let _ =
            if column == 0 { write!(text, "| {cell}{padding} ") } else { write!(text, "| {padding}{cell} ") };
    }
    text + "|\n"
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn of_several_runs_the_middle_one_counts() {
        let run = |seconds, peak, wrong: Option<&str>| Figures {
            name: "run".into(),
            seconds,
            peak_bytes: Some(peak),
            wrong: wrong.map(str::to_owned),
            ..Figures::default()
        };
        let middle =
            median(vec![run(3.0, 7, None), run(1.0, 9, Some("a row lost")), run(2.0, 8, None)], Role::Floor);
        let middle = middle.unwrap();
        assert_eq!((middle.seconds, middle.peak_bytes, middle.role), (2.0, Some(9), Role::Floor));
        assert_eq!((middle.name.as_str(), middle.wrong.as_deref()), ("run, median of 3", Some("a row lost")));
        assert!(median(Vec::new(), Role::Floor).is_none());
    }

    #[test]
    fn every_run_is_compared_with_the_first_and_calculated_per_million() {
        let floor = Figures { name: "floor".into(), records: 1_000, seconds: 1.0, ..Figures::default() };
        let run = Figures {
            name: "run".into(),
            role: Role::Consumer,
            records: 500_000,
            seconds: 250.0,
            flowing: Some(2_500.0),
            cpu_seconds: Some(1.0),
            peak_bytes: Some(3 << 19),
            machine_seconds: 4.0,
            wal_bytes: 600_000_000,
            wrong: None,
        };
        let text = render(&[floor, run]);
        let cells: Vec<&str> = text.lines().nth(3).unwrap().split('|').map(str::trim).collect();
        assert_eq!(
            cells[1..11],
            ["run", "500,000", "2,000", "2.00", "2,500", "2.00", "1.5", "8.0", "1,200", "right"]
        );
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }
}
