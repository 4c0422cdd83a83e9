//! One replica as a fluid queue: first in, first out, served at a constant rate.
//!
//! The objective is an age: no event waits longer than `target` seconds. Events that wait now are taken to have
//! arrived evenly over the age of the oldest; later ones arrive at a constant rate. Then the age of the oldest
//! event not yet consumed is a line with one bend, at the moment when the present backlog has gone, and all
//! questions have closed answers.

use crate::shape::Load;

/// The load after so many seconds of service at `capacity` events per second (0: nobody serves).
pub(crate) fn advance(load: Load, capacity: f64, seconds: f64) -> Load {
    let served = capacity * seconds;
    let backlog = (load.backlog + load.rate * seconds - served).max(0.0);
    let age = if served < load.backlog {
        seconds + load.age * (1.0 - served / load.backlog)
    } else if load.rate > 0.0 {
        backlog / load.rate
    } else {
        0.0
    };
    Load { backlog, age, ..load }
}

/// For how many of the next `horizon` seconds the oldest event is older than `target`.
pub(crate) fn violation(load: Load, capacity: f64, target: f64, horizon: f64) -> f64 {
    if capacity <= 0.0 {
        let waits = load.backlog > 0.0 || load.rate > 0.0;
        return if waits { above(load.age, load.age + horizon, horizon, target) } else { 0.0 };
    }
    let bend = load.backlog / capacity;
    if bend >= horizon {
        let end = advance(load, capacity, horizon).age;
        return above(load.age, end, horizon, target);
    }
    let present = above(load.age, bend, bend, target);
    if load.rate <= 0.0 {
        return present;
    }
    let slope = 1.0 - capacity / load.rate;
    let rest = horizon - bend;
    if slope >= 0.0 {
        return present + above(bend, bend + slope * rest, rest, target);
    }
    let length = rest.min(bend / -slope);
    present + above(bend, bend + slope * length, length, target)
}

/// Seconds until no event is older than `age`; infinite if that never will be.
pub(crate) fn drain_seconds(load: Load, capacity: f64, age: f64) -> f64 {
    let left = load.backlog - load.rate * age;
    if left <= 0.0 {
        // Later arrivals wait less; those that wait now may still be older.
        if load.age <= age || capacity <= 0.0 { 0.0 } else { load.backlog / capacity }
    } else if capacity > load.rate {
        left / (capacity - load.rate)
    } else {
        f64::INFINITY
    }
}

/// For how much of a line from `from` to `to` over `length` seconds the value is above `limit`.
fn above(from: f64, to: f64, length: f64, limit: f64) -> f64 {
    match (from > limit, to > limit) {
        (true, true) => length,
        (false, false) => 0.0,
        (true, false) => length * (from - limit) / (from - to),
        (false, true) => length * (to - limit) / (to - from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same queue in small steps, as a check on the closed answers.
    fn by_steps(load: Load, capacity: f64, target: f64, horizon: f64) -> f64 {
        let step = 0.01;
        let mut above = 0.0;
        let mut time = 0.0;
        while time < horizon {
            if advance(load, capacity, time).age > target {
                above += step;
            }
            time += step;
        }
        above
    }

    #[test]
    fn closed_answers_agree_with_small_steps() {
        let loads = [
            (0.0, 0.0, 100.0, 90.0),
            (0.0, 0.0, 150.0, 100.0),
            (9000.0, 90.0, 100.0, 130.0),
            (9000.0, 90.0, 100.0, 90.0),
            (9000.0, 2.0, 10.0, 130.0),
            (500.0, 40.0, 0.0, 100.0),
            (9000.0, 50.0, 100.0, 0.0),
            (0.0, 0.0, 0.0, 0.0),
        ];
        for (backlog, age, rate, capacity) in loads {
            let load = Load { backlog, age, rate, calm: rate };
            for target in [5.0, 30.0, 80.0] {
                let closed = violation(load, capacity, target, 400.0);
                let stepped = by_steps(load, capacity, target, 400.0);
                assert!((closed - stepped).abs() < 0.5, "{load:?} {capacity} {target}: {closed} {stepped}");
            }
        }
    }

    #[test]
    fn a_backlog_drains_by_what_is_left_of_the_capacity() {
        let load = Load { backlog: 900.0, age: 9.0, rate: 70.0, calm: 70.0 };
        assert_eq!(drain_seconds(load, 100.0, 0.0), 30.0);
        assert_eq!(drain_seconds(load, 100.0, 3.0), 23.0);
        assert_eq!(drain_seconds(load, 70.0, 0.0), f64::INFINITY);
        assert_eq!(drain_seconds(Load { backlog: 0.0, age: 0.0, ..load }, 10.0, 0.0), 0.0);
    }
}
