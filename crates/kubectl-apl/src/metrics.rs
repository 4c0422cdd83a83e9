//! The few numbers that matter out of a consumer's metrics.

use std::collections::BTreeMap;

/// What one consumer says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    /// Events behind the end of each partition that it reads.
    pub(crate) lag: BTreeMap<i32, i64>,
    /// Dead letters since it started, by reason.
    pub(crate) dead_letters: BTreeMap<String, u64>,
    /// Records handled since it started.
    pub(crate) processed: u64,
    /// Events since it started that were stored before.
    pub(crate) duplicates: u64,
}

impl Metrics {
    /// Reads the Prometheus text format; what is not known is passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            metrics.take(series, value);
        }
        metrics
    }

    fn take(&mut self, series: &str, value: f64) {
        // Counters and lags are whole numbers far below 2⁵³.
        match series.split('{').next() {
            Some("kafka_consumer_lag") => {
                if let Some(partition) = label(series, "partition").and_then(|text| text.parse().ok()) {
                    self.lag.insert(partition, value as i64);
                }
            }
            Some("dead_letters_total") => {
                let reason = label(series, "reason").unwrap_or("unknown").to_owned();
                *self.dead_letters.entry(reason).or_default() += value as u64;
            }
            Some("events_processed_total") => self.processed += value as u64,
            Some("events_duplicate_total") => self.duplicates += value as u64,
            _ => {}
        }
    }
}

fn label<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = series.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_read_by_partition_and_counters_are_summed() {
        let text = "# HELP x y\nkafka_consumer_lag{partition=\"3\",topic=\"t\"} 12\nkafka_consumer_lag{partition=\"0\",topic=\"t\"} 0\n\
            events_processed_total{event_type=\"a\",service=\"s\"} 5\nevents_processed_total{event_type=\"b\",service=\"s\"} 6\n\
            dead_letters_total{reason=\"malformed\"} 2\nevents_duplicate_total 1\nother_total 9\nnonsense\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.lag, BTreeMap::from([(0, 0), (3, 12)]));
        assert_eq!(metrics.dead_letters, BTreeMap::from([("malformed".to_owned(), 2)]));
        assert_eq!((metrics.processed, metrics.duplicates), (11, 1));
    }
}
