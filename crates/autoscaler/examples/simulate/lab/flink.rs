//! Flink's Kubernetes Operator autoscaler, for a job of one vertex that reads the topic
//! (`JobVertexScaler`, `ScalingMetricEvaluator`, `AutoScalerUtils`, `ParallelismAligner`).
//!
//! A rescale costs what a rebalance costs here, not a restart from a savepoint: the law is compared, not the
//! price of stateful jobs.

use std::collections::VecDeque;

use autoscaler::Observation;

use super::scaler::{Scaler, Totals, totals};

/// The options that matter here, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct FlinkOptions {
    pub window: f64,
    pub stabilization: f64,
    pub catch_up: f64,
    pub restart: f64,
    pub scale_down_interval: f64,
    pub interval: usize,
}

impl FlinkOptions {
    /// As documented.
    pub const DEFAULT: Self = Self {
        window: 900.0,
        stabilization: 300.0,
        catch_up: 1800.0,
        restart: 300.0,
        scale_down_interval: 3600.0,
        interval: 60,
    };
    /// As fast as makes sense for a job without state.
    pub const FAST: Self = Self {
        window: 60.0,
        stabilization: 60.0,
        catch_up: 60.0,
        restart: 30.0,
        scale_down_interval: 300.0,
        interval: 15,
    };
}

const TARGET: f64 = 0.7;
const BOUNDARY: f64 = 0.3;
const LARGEST_DOWN: f64 = 0.6;
const BACKLOG_SECONDS: f64 = 300.0;
const OBSERVED_LAG_SECONDS: f64 = 30.0;
const SWITCH: f64 = 0.15;

/// Flink's law with some options.
pub struct Flink {
    label: &'static str,
    options: FlinkOptions,
    min: u32,
    max: u32,
    history: VecDeque<Totals>,
    scaled_at: f64,
    /// Recommendations to go down: since when, and the largest.
    down: Option<(f64, u32)>,
}

impl Flink {
    /// With options, between bounds.
    pub fn new(label: &'static str, options: FlinkOptions, min: u32, max: u32) -> Self {
        let history = VecDeque::new();
        Self { label, options, min: min.max(1), max, history, scaled_at: f64::NEG_INFINITY, down: None }
    }

    /// True processing rate of the whole vertex, and target data rate; `None` until the window is full.
    fn evaluate(&self) -> Option<(f64, f64, f64)> {
        let (first, last) = (self.history.front()?, self.history.back()?);
        let span = last.time - first.time;
        if span < self.options.window - 1.0 {
            return None;
        }
        let count = self.history.len() as f64;
        let rate = self.history.iter().map(|totals| totals.processed).sum::<f64>() / count;
        let busy = self.history.iter().map(|totals| totals.busiest).sum::<f64>() / count;
        let target = (rate + (last.lag - first.lag) / span).max(0.0);
        let by_busy = if busy > 0.0 { rate / busy } else { f64::INFINITY };
        let backlogged: Vec<f64> = self
            .history
            .iter()
            .filter(|totals| totals.lag >= OBSERVED_LAG_SECONDS * totals.processed && totals.processed > 0.0)
            .map(|totals| totals.processed)
            .collect();
        let observed = backlogged.iter().sum::<f64>() / backlogged.len().max(1) as f64;
        let capacity =
            if backlogged.len() >= 2 && by_busy > observed * (1.0 + SWITCH) { observed } else { by_busy };
        Some((capacity, target, last.lag))
    }

    /// `AutoScalerUtils.getTargetProcessingCapacity`.
    fn required(&self, rate: f64, lag: f64, utilization: f64, with_restart: bool) -> f64 {
        let catch_up = self.options.catch_up;
        let restart = if with_restart { rate * self.options.restart / catch_up } else { 0.0 };
        lag / catch_up + restart + rate / utilization
    }

    fn align(&self, parallelism: u32, partitions: u32) -> u32 {
        let upper = self.max.min(partitions);
        let asked = parallelism.clamp(self.min, upper);
        let better = |candidate: &u32| {
            partitions.is_multiple_of(*candidate) || partitions / candidate < partitions / asked
        };
        (asked..=upper).find(better).unwrap_or(asked)
    }
}

impl Scaler for Flink {
    fn name(&self) -> String {
        self.label.to_owned()
    }

    fn interval(&self) -> usize {
        self.options.interval
    }

    fn replicas(&mut self, observation: &Observation) -> u32 {
        let totals = totals(observation);
        let current = observation.replicas.spec;
        if current == 0 {
            return u32::from(totals.lag > 0.0);
        }
        // While a rescale stabilizes, and while metrics are missing, nothing is collected.
        if totals.time - self.scaled_at < self.options.stabilization || !totals.known || !totals.measured {
            self.history.clear();
            return current;
        }
        self.history.push_back(totals);
        while self.history.front().is_some_and(|first| totals.time - first.time > self.options.window) {
            self.history.pop_front();
        }
        let Some((capacity, rate, lag)) = self.evaluate() else {
            return current;
        };
        let backlog = lag > BACKLOG_SECONDS * rate.max(1e-9);
        let (low, high) = if backlog { (0.0, 1.0) } else { (TARGET - BOUNDARY, TARGET + BOUNDARY) };
        let too_slow = capacity < self.required(rate, lag, high, false);
        let too_fast = low > 0.0 && capacity > self.required(rate, lag, low, true);
        if !too_slow && !too_fast {
            self.down = None;
            return current;
        }
        let factor = self.required(rate, lag, TARGET, true) / capacity;
        let factor = if factor.is_finite() { factor.max(1.0 - LARGEST_DOWN) } else { 1.0 };
        let wanted = self.align((factor * f64::from(current)).ceil() as u32, totals.partitions);
        if wanted > current {
            self.down = None;
            self.scaled_at = totals.time;
            return wanted;
        }
        if wanted == current || backlog {
            self.down = None;
            return current;
        }
        let (since, largest) =
            self.down.map_or((totals.time, wanted), |(since, largest)| (since, largest.max(wanted)));
        if totals.time - since < self.options.scale_down_interval {
            self.down = Some((since, largest));
            return current;
        }
        self.down = None;
        self.scaled_at = totals.time;
        largest
    }
}
