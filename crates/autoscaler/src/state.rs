//! What is remembered from one decision to the next.

use arrayvec::ArrayVec;
use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::shape::Pattern;

/// What is remembered from one decision to the next. Its inside is no interface: keep it as JSON, give it back
/// with the next observation. [`State::default`] is the state of a pipeline that has never been seen.
///
/// It is compact: about 100 bytes per partition, and less than a kilobyte besides. Every number survives JSON
/// bit for bit, which replay depends on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct State {
    /// Time of the last observation.
    pub(crate) time: Option<f64>,
    /// Usual seconds between two observations.
    pub(crate) interval: Option<f32>,
    /// Partitions the topic had when its metadata was last read.
    pub(crate) partition_count: Option<u32>,
    pub(crate) partitions: LiteMap<i32, PartitionMemory>,
    /// How the group hands out partitions, if a rule has been recognized.
    pub(crate) pattern: Option<Pattern>,
    pub(crate) capacity: CapacityMemory,
    pub(crate) scaling: ScalingMemory,
    /// One per number of replicas worth having.
    pub(crate) shadows: LiteMap<u32, ShadowMemory>,
    pub(crate) sink: SinkMemory,
    /// Arrivals per second over all partitions, averaged slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<f32>,
    /// The oldest that events have been of late while consumers had their partitions, up to the objective, fading with time.
    pub(crate) roughness: f32,
    /// Since when some lag has not been readable.
    pub(crate) unknown_since: Option<f64>,
    /// Since when more has arrived than as many replicas as partitions handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outrun_since: Option<f64>,
    /// Since when no event has waited long although the replicas were always busy.
    pub(crate) quiet_since: Option<f64>,
    /// Since when nothing has arrived and nothing is left to do.
    pub(crate) idle_since: Option<f64>,
}

impl State {
    /// What holds by whatever clock: what a replica can do, how partitions are handed out, how long changes take. All that has
    /// a time is forgotten, so that windows begin anew.
    pub(crate) fn restarted(&self) -> Self {
        let ScalingMemory { spec, converge_seconds, pause_seconds, .. } = self.scaling;
        Self {
            interval: self.interval,
            partition_count: self.partition_count,
            pattern: self.pattern,
            capacity: self.capacity.clone(),
            scaling: ScalingMemory { spec, converge_seconds, pause_seconds, ..ScalingMemory::default() },
            ..Self::default()
        }
    }
}

/// One partition. Field names are short in JSON because there may be thousands of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PartitionMemory {
    /// Time of the last reading that could be used.
    #[serde(rename = "t")]
    pub(crate) time: f64,
    /// Log end at that time.
    #[serde(rename = "e")]
    pub(crate) end: i64,
    /// Committed (or starting) offset at that time.
    #[serde(rename = "p")]
    pub(crate) position: i64,
    /// When the position last moved or there was nothing to do, later by the time in which nobody was there to do it.
    #[serde(rename = "m")]
    pub(crate) moved: f64,
    /// Since when the position has not moved although there is lag and the group stands, whether or not its pods are ready.
    #[serde(rename = "g", skip_serializing_if = "Option::is_none")]
    pub(crate) still: Option<f64>,
    /// When there was last no lag, if that has been seen: no event can be older.
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    pub(crate) drained: Option<f64>,
    /// The latest rates between two readings, oldest first.
    #[serde(rename = "s")]
    pub(crate) samples: LastTwo,
    /// Events arriving per second.
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f32>,
    /// The same, averaged over two minutes whatever happens.
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    pub(crate) calm: Option<f32>,
    /// Events consumed per second between the last two readings.
    #[serde(rename = "v", skip_serializing_if = "Option::is_none")]
    pub(crate) served: Option<f32>,
    /// Since when more arrives than one replica can handle.
    #[serde(rename = "h", skip_serializing_if = "Option::is_none")]
    pub(crate) hot_since: Option<f64>,
    /// Lag that is left although there is nothing to consume (control records of transactions).
    #[serde(rename = "c", skip_serializing_if = "is_zero")]
    pub(crate) residue: u64,
}

/// At most two numbers, oldest first.
pub(crate) type LastTwo = ArrayVec<f32, 2>;

/// Adds the newest, and drops the oldest of three.
pub(crate) fn push(samples: &mut LastTwo, newest: f64) {
    if samples.is_full() {
        samples.remove(0);
    }
    samples.push(newest as f32);
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What one replica can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct CapacityMemory {
    /// Events per second.
    pub(crate) rate: Option<f32>,
    /// True if that is from one sample alone.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) tentative: bool,
    /// True if nothing shows that it is not far more.
    pub(crate) bound: bool,
    /// True if the replicas were busy with a backlog at the last observation.
    pub(crate) saturated: bool,
    /// True if the backlog was not only at a few of them.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) everywhere: bool,
    /// How busy the replicas were when it was learned, fading with time.
    pub(crate) quality: f32,
    /// The latest samples, oldest first.
    pub(crate) samples: LastTwo,
    /// Throughput of all replicas and their mean busy ratio, smoothed over about twenty seconds.
    pub(crate) throughput: Option<f32>,
    pub(crate) busy: Option<f32>,
}

/// What happened to the replica count, and how long it takes to take effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ScalingMemory {
    /// Replicas at the last observation.
    pub(crate) spec: Option<u32>,
    /// What was decided at the last observation, if it was a change.
    pub(crate) asked: Option<Asked>,
    /// The last change that was seen to be carried out (by whomever).
    pub(crate) last: Option<Change>,
    /// When the replica count was last lowered.
    pub(crate) lowered: Option<f64>,
    /// The last growth that the objective called for.
    pub(crate) grown: Option<f64>,
    /// The last growth that arrivals, not a backlog, called for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outgrown: Option<f64>,
    /// Since when the smaller number that was taken after the last growth would have sufficed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spare_since: Option<f64>,
    /// The number before that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak: Option<u32>,
    /// For so many seconds a smaller number would have sufficed before the last growth that took a scale-down back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lull: Option<f32>,
    /// How many changes there had been of late when the last one was made, itself included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) debt: Option<f32>,
    /// Times of the changes within the last hour.
    pub(crate) changes: Vec<f64>,
    /// Since when pods or group have not been what they should be.
    pub(crate) unsettled_since: Option<f64>,
    /// Since when they have.
    pub(crate) settled_since: Option<f64>,
    /// How old the oldest event was when they ceased to be.
    pub(crate) unsettled_age: f32,
    /// Since when the group has been rebalancing.
    pub(crate) rebalancing_since: Option<f64>,
    /// Seconds from a decision to grow until the new replicas consume.
    pub(crate) converge_seconds: Option<f32>,
    /// Seconds for which a rebalance stops consumption.
    pub(crate) pause_seconds: Option<f32>,
    /// How often the window for scale-downs has been doubled because one was regretted.
    pub(crate) widened: u8,
    /// When it was last doubled or halved.
    pub(crate) widened_at: f64,
    /// The growth whose backlog is being worked off.
    pub(crate) drain: Option<Drain>,
}

/// A decision that has not been seen to be carried out yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    pub(crate) time: f64,
    pub(crate) desired: u32,
    /// True for a growth that the objective called for.
    pub(crate) urgent: bool,
    /// True if more arrived than the replicas handle.
    #[serde(default)]
    pub(crate) outrun: bool,
    /// Predicted seconds until the backlog is gone, if that can be told.
    pub(crate) drain_seconds: Option<f64>,
    /// For fewer: since when they would have sufficed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spare_since: Option<f64>,
}

/// A change of the replica count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) time: f64,
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// True until the change has been seen to take effect.
    pub(crate) settling: bool,
}

/// A predicted end of a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drain {
    pub(crate) since: f64,
    pub(crate) predicted_seconds: f64,
}

/// How a number of replicas would have fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ShadowMemory {
    /// Seconds of work that would be waiting at its most loaded replica.
    #[serde(rename = "w")]
    pub(crate) waiting: f32,
    /// When it was last seen not to suffice, or began to be watched.
    #[serde(rename = "f")]
    pub(crate) failed: f64,
    /// Since when work has been waiting.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_since: Option<f64>,
    /// True if it came as a burst.
    #[serde(rename = "b", skip_serializing_if = "is_false")]
    pub(crate) burst: bool,
    /// When such a burst last ended without its having failed.
    #[serde(rename = "o", skip_serializing_if = "Option::is_none")]
    pub(crate) outlasted: Option<f64>,
}

/// What is known about the database's limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SinkMemory {
    /// The growth that is being judged.
    pub(crate) trial: Option<Trial>,
    /// Capacity of a replica before a growth that gained less than it should have.
    pub(crate) doubt: Option<f32>,
    /// The limit, once found.
    pub(crate) ceiling: Option<Ceiling>,
}

/// A growth whose gain is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trial {
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// Events per second that were stored before, all replicas busy.
    pub(crate) throughput: f32,
    /// Capacity of a replica that was believed in before.
    pub(crate) capacity: f32,
}

/// A limit of the database.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ceiling {
    /// Events per second.
    pub(crate) throughput: f32,
    /// Least replicas believed to reach it.
    pub(crate) replicas: u32,
    /// Replicas known to have reached it.
    pub(crate) safe: u32,
    /// True while it binds.
    pub(crate) active: bool,
    /// When it last bound.
    pub(crate) seen: f64,
    /// Since when it has seemed not to bind.
    pub(crate) relieved_since: Option<f64>,
}
