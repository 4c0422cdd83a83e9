//! The same thing said again and again: librdkafka tries a broker many times a second, and says each time that it failed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was said is not said again for so long.
const QUIET: Duration = Duration::from_secs(30);
/// So many different things are remembered; a process has no more troubles at once than a person can read.
const REMEMBERED: usize = 64;

/// What was said of late.
#[derive(Default)]
pub(super) struct Repeats {
    said: Mutex<HashMap<String, Said>>,
}

struct Said {
    at: Instant,
    left_out: u64,
}

impl Repeats {
    /// Whether to say it; then, how often it was left out since the last time.
    pub(super) fn say(&self, text: &str, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let what = essence(text);
        if let Some(before) = said.get_mut(what) {
            if now.saturating_duration_since(before.at) < QUIET {
                before.left_out += 1;
                return None;
            }
            before.at = now;
            return Some(std::mem::take(&mut before.left_out));
        }
        if said.len() >= REMEMBERED {
            said.retain(|_, before| now.saturating_duration_since(before.at) < QUIET);
        }
        // Whoever has so much to say says it in full.
        if said.len() < REMEMBERED {
            said.insert(what.to_owned(), Said { at: now, left_out: 0 });
        }
        Some(0)
    }
}

/// Without how long an attempt took, and how many others failed alike.
fn essence(text: &str) -> &str {
    text.split_once(" (after ").map_or(text, |(essence, _)| essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_with_how_often_it_was_left_out() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let ssl = "ssl://kafka:9093/bootstrap: SSL handshake failed (after 5ms in state SSL_HANDSHAKE)";
        let again = "ssl://kafka:9093/bootstrap: SSL handshake failed (after 7ms in state SSL_HANDSHAKE, 3 identical error(s) suppressed)";
        let table = [
            (0, ssl, Some(0)),
            (1, again, None),
            (
                2,
                "ssl://kafka:9094/bootstrap: SSL handshake failed (after 5ms in state SSL_HANDSHAKE)",
                Some(0),
            ),
            (29, ssl, None),
            (30, ssl, Some(2)),
            (31, again, None),
        ];
        for (seconds, text, expected) in table {
            assert_eq!(repeats.say(text, start + Duration::from_secs(seconds)), expected, "{seconds} {text}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        for number in 0..1_000 {
            assert_eq!(repeats.say(&format!("trouble {number}"), start), Some(0));
        }
        assert_eq!(repeats.said.lock().unwrap().len(), REMEMBERED);
        repeats.say("another", start + QUIET);
        assert_eq!(repeats.said.lock().unwrap().len(), 1);
    }
}
