//! Whether the load as a whole rises or falls steadily, as it does in the morning and in the evening.
//!
//! Exponential averages of a straight line lag behind it by their time constants, so the distance between two of
//! them is the slope times the difference of the constants (the idea of Holt's linear trend, 1957). Three averages
//! give two such distances, one of late and one for longer; what is steady shows in both. A step of the whole topic
//! is taken out of the slow one: what has just jumped is no slope.

use crate::arrival::{CALM_SECONDS, SMOOTHING_SECONDS};

/// Time constant of the slow average.
const SLOW_SECONDS: f64 = 480.0;

/// The slow average of the arrival rate after another `span` seconds, in which the rate stepped by `step`.
pub(crate) fn learn(slow: Option<f32>, rate: f64, step: f64, span: f64) -> f32 {
    let slow = slow.map_or(rate, |slow| f64::from(slow) + step);
    (slow + (1.0 - (-span / SLOW_SECONDS).exp()) * (rate - slow)).max(0.0) as f32
}

/// By how many events per second the rate changes in each second: more than 0 if it rises steadily, less if it falls
/// steadily, else 0. `calm` is its average over two minutes.
pub(crate) fn slope(slow: Option<f32>, rate: f64, calm: f64) -> f64 {
    let Some(slow) = slow.map(f64::from) else {
        return 0.0;
    };
    let of_late = (rate - calm) / (CALM_SECONDS - SMOOTHING_SECONDS);
    let for_longer = (calm - slow) / (SLOW_SECONDS - CALM_SECONDS);
    match (of_late > 0.0, for_longer > 0.0) {
        (true, true) => of_late.min(for_longer),
        (false, false) => of_late.max(for_longer),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows rates, five seconds apart, with the steps that are known to be in them.
    fn followed(rates: impl Iterator<Item = (f64, f64)>) -> f64 {
        let (mut slow, mut last, mut calm) = (None, 0.0, None);
        for (rate, step) in rates {
            let known: f64 = calm.unwrap_or(rate);
            calm = Some(known + (1.0 - (-5.0 / CALM_SECONDS).exp()) * (rate - known));
            (slow, last) = (Some(learn(slow, rate, step, 5.0)), rate);
        }
        slope(slow, last, calm.unwrap_or(last))
    }

    #[test]
    fn a_steady_change_is_seen() {
        for expected in [0.2, -0.2] {
            let line = (0..720).map(|index| (1000.0 + expected * f64::from(index) * 5.0, 0.0));
            let seen = followed(line);
            // The rate of this test is not smoothed, so its averages are further apart than those of a learned one.
            assert!((0.9..2.1).contains(&(seen / expected)), "{expected}: {seen}");
        }
    }

    #[test]
    fn a_step_is_no_slope() {
        let step = |from: f64, to: f64| {
            followed((0..60).map(move |index| match index {
                0..30 => (from, 0.0),
                30 => (to, to - from),
                _ => (to, 0.0),
            }))
        };
        assert_eq!((step(100.0, 500.0), step(500.0, 100.0)), (0.0, 0.0));
    }
}
