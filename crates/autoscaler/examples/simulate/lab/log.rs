//! One partition: what arrived when, what has been consumed, what has been committed.

/// A partition's log as a fluid.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Events that had arrived by the end of each second.
    arrived: Vec<f64>,
    consumed: f64,
    committed: f64,
    /// Where the log began when it was last made anew.
    base: f64,
    /// First second whose events are not all consumed.
    oldest: usize,
}

impl Log {
    pub fn append(&mut self, events: f64) {
        let before = self.end();
        self.arrived.push(before + events);
    }

    fn end(&self) -> f64 {
        self.arrived.last().copied().unwrap_or(0.0)
    }

    pub fn backlog(&self) -> f64 {
        (self.end() - self.consumed).max(0.0)
    }

    pub fn consume(&mut self, events: f64) {
        self.consumed = (self.consumed + events).min(self.end());
    }

    pub fn commit(&mut self) {
        self.committed = self.consumed;
    }

    /// The topic is made anew: what was in it is gone, offsets begin at 0.
    pub fn restart(&mut self) {
        self.base = self.end();
        (self.consumed, self.committed) = (self.base, self.base);
    }

    /// Log end and committed offset as a broker would tell them.
    pub fn offsets(&self) -> (i64, i64) {
        let end = (self.end() - self.base).floor() as i64;
        let committed = (self.committed - self.base + 1e-6).floor() as i64;
        (end, committed.min(end))
    }

    /// Age of the oldest event not consumed, at the end of a second.
    pub fn age(&self, second: usize) -> f64 {
        if self.backlog() < 1e-6 * self.end().max(1.0) {
            return 0.0;
        }
        (second - self.oldest_index()) as f64
    }

    fn oldest_index(&self) -> usize {
        self.arrived[self.oldest..].partition_point(|arrived| *arrived <= self.consumed + 1e-6) + self.oldest
    }

    /// Remembers where to look from, so that a long trace stays fast.
    pub fn forget(&mut self) {
        self.oldest = self.oldest_index().min(self.arrived.len());
    }
}
