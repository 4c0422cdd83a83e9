//! Numaflow, the Cloud Run Kafka autoscaler and Druid's cost-based autoscaler, by their formulas.

use std::collections::VecDeque;

use autoscaler::Observation;

use super::scaler::{Scaler, Totals, totals};

/// Numaflow's source vertex (`pkg/reconciler/vertex/scaling/scaling.go`), default settings.
pub struct Numaflow {
    min: u32,
    max: u32,
    history: VecDeque<Totals>,
    scaled_at: f64,
    asleep_since: f64,
}

impl Numaflow {
    const LOOKBACK_SECONDS: f64 = 120.0;
    const COOLDOWN_SECONDS: f64 = 90.0;
    const TARGET_SECONDS: f64 = 20.0;
    const SLEEP_SECONDS: f64 = 120.0;
    const STEP: u32 = 2;

    /// Between bounds.
    pub fn new(min: u32, max: u32) -> Self {
        let never = f64::NEG_INFINITY;
        Self { min, max, history: VecDeque::new(), scaled_at: never, asleep_since: never }
    }
}

impl Scaler for Numaflow {
    fn name(&self) -> String {
        "Numaflow".to_owned()
    }

    fn interval(&self) -> usize {
        30
    }

    fn replicas(&mut self, observation: &Observation) -> u32 {
        let totals = totals(observation);
        let current = observation.replicas.spec;
        if current == 0 {
            // Peek: one pod every so often.
            return u32::from(totals.time - self.asleep_since >= Self::SLEEP_SECONDS);
        }
        let steady = totals.ready == totals.spec && !observation.replicas.rollout_in_progress;
        if !steady || totals.ready < 1.0 || !totals.known || !totals.measured {
            return current;
        }
        self.history.push_back(totals);
        while self.history.front().is_some_and(|first| totals.time - first.time > Self::LOOKBACK_SECONDS) {
            self.history.pop_front();
        }
        let rate =
            self.history.iter().map(|totals| totals.processed).sum::<f64>() / self.history.len() as f64;
        if totals.time - self.scaled_at < Self::COOLDOWN_SECONDS {
            return current;
        }
        let desired = if totals.lag == 0.0 && rate == 0.0 {
            0
        } else if totals.lag == 0.0 {
            1
        } else if rate == 0.0 {
            current
        } else {
            (totals.lag / rate / Self::TARGET_SECONDS * totals.ready).round().clamp(1.0, f64::from(self.max))
                as u32
        };
        let desired = desired.clamp(self.min, self.max);
        let stepped = desired.clamp(current.saturating_sub(Self::STEP), current + Self::STEP);
        if stepped != current {
            self.scaled_at = totals.time;
            self.asleep_since = totals.time;
        }
        stepped
    }
}

/// The Cloud Run Kafka autoscaler (`LagScaling.java`, `Scaler.java`).
pub struct CloudRun {
    threshold: f64,
    min: u32,
    max: u32,
    lowered_at: f64,
}

impl CloudRun {
    const TOLERANCE: f64 = 0.1;
    const DOWN_SECONDS: f64 = 30.0;

    /// `threshold` in events.
    pub fn new(threshold: f64, min: u32, max: u32) -> Self {
        Self { threshold, min, max, lowered_at: f64::NEG_INFINITY }
    }
}

impl Scaler for CloudRun {
    fn name(&self) -> String {
        "Cloud Run".to_owned()
    }

    fn interval(&self) -> usize {
        30
    }

    fn replicas(&mut self, observation: &Observation) -> u32 {
        let totals = totals(observation);
        let current = observation.replicas.spec;
        if !totals.known || totals.members != totals.spec {
            return current;
        }
        let ratio = totals.lag / self.threshold;
        if (1.0 - ratio).abs() <= Self::TOLERANCE {
            return current;
        }
        let wanted = (f64::from(current.max(1)) * ratio).ceil().min(f64::from(self.max)) as u32;
        let wanted = wanted.clamp(self.min, self.max.min(totals.partitions));
        if wanted >= current {
            return wanted;
        }
        if totals.time - self.lowered_at < Self::DOWN_SECONDS {
            return current;
        }
        self.lowered_at = totals.time;
        wanted.max(current - current / 2)
    }
}

/// Druid's cost-based autoscaler (`CostBasedAutoScaler.java`, `WeightedCostFunction.java` of 2026), with its
/// linear idle cost, lag weight 0.4 and idle weight 0.6, deciding every two minutes in both directions.
pub struct Druid {
    min: u32,
    max: u32,
    history: VecDeque<Totals>,
}

impl Druid {
    const TASK_SECONDS: f64 = 3600.0;
    const LAG_WEIGHT: f64 = 0.4;
    const IDLE_WEIGHT: f64 = 0.6;
    const EXTRA_LAG: f64 = 50_000.0;
    const AGGRESSIVE_LAG: f64 = 100_000.0;

    /// Between bounds.
    pub fn new(min: u32, max: u32) -> Self {
        Self { min: min.max(1), max, history: VecDeque::new() }
    }

    fn candidates(&self, current: u32, lag: f64, partitions: u32) -> Vec<u32> {
        let share = partitions / current.max(1);
        let per_partition = lag / f64::from(partitions);
        let extra = if per_partition < Self::EXTRA_LAG {
            0
        } else {
            let raw = 5.0 + ((per_partition - Self::AGGRESSIVE_LAG).max(0.0) / 100_000.0).floor();
            (raw * (1.0 - f64::from(current) / f64::from(self.max)).max(0.0)) as u32
        };
        let (least, most) = (share.saturating_sub(2 + extra).max(1), (share + 4).min(partitions));
        let counts = (least..=most).rev().map(|share| partitions.div_ceil(share));
        counts.filter(|count| (self.min..=self.max).contains(count)).collect()
    }

    fn idle(busy: f64, current: u32, proposed: u32, lag: f64, partitions: u32) -> f64 {
        if proposed == current {
            return 1.0 - busy;
        }
        let linear = (1.0 - busy * f64::from(current) / f64::from(proposed)).clamp(0.0, 1.0);
        let mut factor = 1.0 - (-lag / f64::from(proposed) / Self::AGGRESSIVE_LAG).exp();
        let per_partition = lag / f64::from(partitions);
        if per_partition >= Self::EXTRA_LAG {
            let ramp = ((per_partition - Self::EXTRA_LAG) / (500_000.0 - Self::EXTRA_LAG)).clamp(0.0, 1.0);
            factor = (factor * (1.0 + ramp)).min(1.0);
        }
        (linear * (1.0 - factor)).max(0.0)
    }
}

impl Scaler for Druid {
    fn name(&self) -> String {
        "Druid cost".to_owned()
    }

    fn interval(&self) -> usize {
        30
    }

    fn replicas(&mut self, observation: &Observation) -> u32 {
        let totals = totals(observation);
        let current = observation.replicas.spec;
        if current == 0 {
            return self.min;
        }
        if !totals.known || !totals.measured {
            return current;
        }
        // Its rate is a moving average of minutes per task.
        self.history.push_back(totals);
        if self.history.len() > 30 {
            self.history.pop_front();
        }
        let rate = self.history.iter().map(|totals| totals.processed / totals.ready.max(1.0)).sum::<f64>()
            / self.history.len() as f64;
        if !self.history.len().is_multiple_of(4) && self.history.len() < 30
            || !(totals.time as u64 / 30).is_multiple_of(4)
            || rate <= 0.0
        {
            return current;
        }
        let cost = |count: u32| {
            let idle = Self::idle(totals.busy, current, count, totals.lag, totals.partitions);
            let recovery = totals.lag / (f64::from(count) * rate);
            Self::LAG_WEIGHT * recovery + Self::IDLE_WEIGHT * f64::from(count) * Self::TASK_SECONDS * idle
        };
        let candidates = self.candidates(current, totals.lag, totals.partitions);
        candidates.into_iter().min_by(|one, other| cost(*one).total_cmp(&cost(*other))).unwrap_or(current)
    }
}
