//! What was done when: printed as it happens, and kept with the consumers' logs when the run fails.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A list of steps, each with the seconds since the start.
#[derive(Debug)]
pub(crate) struct Journal {
    began: Instant,
    lines: Vec<String>,
    /// Logs of consumers that are gone, each with its name.
    logs: Vec<(String, String)>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Vec::new(), logs: Vec::new() }
    }

    /// The servers have started: what follows counts.
    pub(crate) fn restart_clock(&mut self) {
        self.began = Instant::now();
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Writes a step down. With `--nocapture` it is seen at once, else when the test fails.
    #[allow(clippy::print_stderr)] // a test's own output
    pub(crate) fn note(&mut self, text: impl AsRef<str>) {
        let clock = chrono::Utc::now().format("%H:%M:%S%.3f");
        let line = format!("{clock} {:7.1} s  {}", self.began.elapsed().as_secs_f64(), text.as_ref());
        eprintln!("{line}");
        self.lines.push(line);
    }

    /// Keeps the log of a consumer that is about to be dropped.
    pub(crate) fn keep_log(&mut self, name: &str, log: String) {
        self.logs.push((name.to_owned(), log));
    }

    /// Saves everything in a folder named after the seed, and says where.
    pub(crate) fn save(&self, seed: u64) -> std::io::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
        // An earlier run of the same seed would mix its logs into this one's.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("journal"), self.lines.join("\n"))?;
        for (number, (name, log)) in self.logs.iter().enumerate() {
            std::fs::write(folder.join(format!("{number:03}-{name}.log")), log)?;
        }
        Ok(folder)
    }
}
