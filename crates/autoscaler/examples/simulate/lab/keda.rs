//! KEDA's Kafka scaler with the HorizontalPodAutoscaler behind it, by their formulas
//! (`pkg/scalers/kafka_scaler.go`, `replica_calculator.go`, `horizontal.go`; defaults of KEDA 2.20).

use std::collections::VecDeque;

use autoscaler::Observation;

use super::scaler::{Scaler, Totals, totals};

const TOLERANCE: f64 = 0.1;
const DOWN_WINDOW_SECONDS: f64 = 300.0;
const SYNC_SECONDS: f64 = 15.0;
const ACTIVATION_SECONDS: f64 = 30.0;
const COOLDOWN_SECONDS: f64 = 300.0;

/// KEDA with one threshold.
pub struct Keda {
    label: String,
    threshold: f64,
    even: bool,
    min: u32,
    max: u32,
    recommendations: VecDeque<(f64, u32)>,
    changes: VecDeque<(f64, i64)>,
    last_activation: f64,
    last_active: f64,
}

impl Keda {
    /// `threshold` in events per replica; `even` distributes partitions evenly.
    pub fn new(label: &str, threshold: f64, even: bool, min: u32, max: u32) -> Self {
        Self {
            label: format!("KEDA {label}{}", if even { " even" } else { "" }),
            threshold: threshold.max(1.0).round(),
            even,
            min,
            max,
            recommendations: VecDeque::new(),
            changes: VecDeque::new(),
            last_activation: f64::NEG_INFINITY,
            last_active: f64::NEG_INFINITY,
        }
    }

    /// The metric that KEDA gives to the HPA.
    fn metric(&self, totals: &Totals) -> f64 {
        let mut lag = totals.lag;
        let partitions = totals.partitions;
        if self.even {
            let enough = |factor: &u32| {
                partitions.is_multiple_of(*factor) && f64::from(*factor) * self.threshold >= lag
            };
            if let Some(factor) = (1..=partitions).find(enough) {
                lag = f64::from(factor) * self.threshold;
            }
        }
        // Integer division, as coded.
        if (lag / self.threshold).floor() > f64::from(partitions) {
            lag = f64::from(partitions) * self.threshold;
        }
        lag
    }

    /// What the HPA makes of it: tolerance, stabilization, rate policies, bounds.
    fn hpa(&mut self, totals: &Totals) -> u32 {
        let current = totals.spec as u32;
        let metric = self.metric(totals);
        let ratio = metric / (self.threshold * totals.spec);
        let proposal =
            if (1.0 - ratio).abs() <= TOLERANCE { current } else { (metric / self.threshold).ceil() as u32 };
        let now = totals.time;
        self.recommendations.push_back((now, proposal));
        while self.recommendations.front().is_some_and(|(time, _)| now - time >= DOWN_WINDOW_SECONDS) {
            self.recommendations.pop_front();
        }
        let highest = self.recommendations.iter().map(|(_, proposal)| *proposal).max().unwrap_or(proposal);
        let stabilized = if proposal < current { highest.min(current) } else { proposal };
        while self.changes.front().is_some_and(|(time, _)| now - time >= SYNC_SECONDS) {
            self.changes.pop_front();
        }
        let added: i64 = self.changes.iter().map(|(_, change)| (*change).max(0)).sum();
        let start = (i64::from(current) - added).max(1);
        let limit = (start + 4).max(start * 2);
        let desired = i64::from(stabilized).min(limit.max(i64::from(current)));
        let desired = desired.clamp(i64::from(self.min.max(1)), i64::from(self.max)) as u32;
        if desired != current {
            self.changes.push_back((now, i64::from(desired) - i64::from(current)));
        }
        desired
    }
}

impl Scaler for Keda {
    fn name(&self) -> String {
        self.label.clone()
    }

    fn interval(&self) -> usize {
        SYNC_SECONDS as usize
    }

    fn replicas(&mut self, observation: &Observation) -> u32 {
        let totals = totals(observation);
        let current = observation.replicas.spec;
        if !totals.known {
            return current;
        }
        let active = totals.lag > 0.0;
        if active {
            self.last_active = totals.time;
        }
        if totals.time - self.last_activation >= ACTIVATION_SECONDS {
            self.last_activation = totals.time;
            if current == 0 {
                return if active { self.min.max(1) } else { 0 };
            }
            if self.min == 0 && !active && totals.time - self.last_active >= COOLDOWN_SECONDS {
                return 0;
            }
        }
        if current == 0 { 0 } else { self.hpa(&totals) }
    }
}
