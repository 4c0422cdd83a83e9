//! What a person watches: steps with their times, and one line that lives.

use std::future::Future;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often a running step shows its time on a terminal.
const TICK: Duration = Duration::from_millis(200);
/// How often it shows a line where lines cannot be overwritten, such as in a log.
const QUIET: Duration = Duration::from_secs(5);

/// The terminal, or whatever takes its place.
#[derive(Debug)]
pub(crate) struct Screen {
    overwrites: bool,
    /// A live line is on the terminal and must be finished before another line.
    open: bool,
    last: Option<Instant>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { overwrites: stdout().is_terminal(), open: false, last: None }
    }

    /// Runs one step, shows that it runs, and how long it took.
    pub(crate) async fn step<T>(&mut self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick() => self.live(&format!("  … {name}  {:.0} s", began.elapsed().as_secs_f64())),
            }
        };
        let mark = if result.is_ok() { "✓" } else { "✗" };
        self.finish(&format!("  {mark} {name}  {:.1} s", began.elapsed().as_secs_f64()));
        result
    }

    /// Shows the line in place of the live line before it; where that is impossible, only every few seconds.
    pub(crate) fn live(&mut self, text: &str) {
        if self.overwrites {
            self.write(&format!("\r\x1b[K{text}"));
            self.open = true;
        } else if self.last.is_none_or(|last| last.elapsed() >= QUIET) {
            self.write(&format!("{text}\n"));
            self.last = Some(Instant::now());
        }
    }

    /// Replaces the live line by one that stays.
    pub(crate) fn finish(&mut self, text: &str) {
        let start = if self.open { "\r\x1b[K" } else { "" };
        self.write(&format!("{start}{text}\n"));
        self.open = false;
        self.last = Some(Instant::now());
    }

    /// Shows text below what is there.
    pub(crate) fn line(&mut self, text: &str) {
        let start = if self.open { "\n" } else { "" };
        self.write(&format!("{start}{text}\n"));
        self.open = false;
    }

    fn write(&self, text: &str) {
        // A reader that has gone away (`| head`) is no reason to leave servers half made.
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
