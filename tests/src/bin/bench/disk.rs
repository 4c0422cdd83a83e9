//! The disk by itself: how long a flush of one page takes, in the same seconds in which something else is measured.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Pause between two flushes: seldom enough not to be a load.
const PAUSE: Duration = Duration::from_millis(20);
const PAGE: [u8; 8192] = [0x5a; 8192];

/// A thread that writes a page again and again, and waits each time until it is on the disk.
pub(crate) struct Disk {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Vec<f64>>>,
}

/// Milliseconds of a flush.
pub(crate) struct Flushes {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

impl Disk {
    /// Begins. The file is where temporary files are, as the servers' are.
    pub(crate) fn start() -> Result<Self> {
        let file = tempfile::tempfile().context("cannot make a file to flush")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self { stop, thread: std::thread::spawn(move || flush(&file, &stopped)) })
    }

    /// Ends.
    pub(crate) fn end(self) -> Result<Flushes> {
        self.stop.store(true, Ordering::Relaxed);
        let mut millis = self.thread.join().map_err(|_| anyhow!("the flushing thread panicked"))??;
        millis.sort_unstable_by(f64::total_cmp);
        let last = millis.len().checked_sub(1).context("nothing was flushed")?;
        let at = |share: f64| millis[(share * last as f64).round() as usize];
        Ok(Flushes { p50: at(0.5), p99: at(0.99), most: millis[last] })
    }
}

fn flush(file: &File, stop: &AtomicBool) -> std::io::Result<Vec<f64>> {
    let mut millis = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        file.write_all_at(&PAGE, 0)?;
        file.sync_data()?;
        millis.push(began.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(PAUSE);
    }
    Ok(millis)
}
