//! A reader that does nothing but read: what of the latency is the producer's and Kafka's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use chrono::Utc;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How often the reader looks whether it shall end.
const POLL: Duration = Duration::from_millis(100);

/// A reader at work.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Seen>>,
}

/// An event that came out of Kafka. Both moments are in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sent: i64,
    read: i64,
}

impl Reader {
    /// Reads a topic from its beginning, in no group.
    pub(crate) fn start(mut config: ClientConfig, topic: &str, partitions: i32) -> Result<Self> {
        config.set("group.id", "bench-reader").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().context("cannot make the plain reader")?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(Ok(message)) = consumer.poll(POLL) {
                    let read = Utc::now().timestamp_micros();
                    seen.extend(message.payload().and_then(sent).map(|sent| Seen { sent, read }));
                }
            }
            seen
        });
        Ok(Self { stop, thread })
    }

    /// Ends it. Returns the percentiles of the milliseconds from sending to reading, without the events of the first
    /// `warm_up`.
    pub(crate) fn end(self, percentiles: [f64; 3], warm_up: Duration) -> Result<[f64; 3]> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow!("the plain reader panicked"))?;
        let first = seen.iter().map(|event| event.sent).min().context("the plain reader has read nothing")?;
        let from = first + i64::try_from(warm_up.as_micros())?;
        let mut millis: Vec<f64> = seen
            .iter()
            .filter(|event| event.sent >= from)
            .map(|event| (event.read - event.sent) as f64 / 1000.0)
            .collect();
        millis.sort_unstable_by(f64::total_cmp);
        let last = millis.len().checked_sub(1).context("the plain reader has read too little")?;
        Ok(percentiles.map(|share| millis[(share * last as f64).round() as usize]))
    }
}

/// The moment that [`crate::load::steady`] has put into an event.
fn sent(payload: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, digits) = text.split_once("\"sent\":")?;
    let end = digits.find(|letter: char| !letter.is_ascii_digit())?;
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_of_sending_is_read() {
        assert_eq!(sent(br#"{"data":{"sent":1731148200123456,"page":"/"}}"#), Some(1_731_148_200_123_456));
        assert_eq!(sent(br#"{"data":{"page":"/"}}"#), None);
    }
}
