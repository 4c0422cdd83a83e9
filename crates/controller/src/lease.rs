//! One controller leads: election by a Lease.
//!
//! Writes carry the resource version that was read, so of two candidates only one can win. Whether another leader is gone is
//! judged by the local clock since its Lease last changed, never by the time written in it: clocks of machines differ. This is
//! no fence (a leader that was frozen may write once more before it notices), and it need not be one: every write is a
//! server-side apply of the same intent.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use thiserror::Error;

use crate::metrics::Metrics;

/// How long a Lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it stops leading; shorter than [`DURATION`], so that it stops before another begins.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause between attempts.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for one answer of the API server.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take the Lease: nobody has it, or its holder is gone.
    Take,
    /// Renew the Lease that is one's own.
    Renew,
    /// Another holds it; look again after this time at the latest.
    Wait(Duration),
}

/// What `me` does about a Lease that has not changed for `unchanged`, by the local clock. (no client required)
#[must_use]
pub fn decide(lease: Option<&LeaseSpec>, unchanged: Duration, me: &str) -> Step {
    let Some(lease) = lease else { return Step::Take };
    match lease.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == me => Step::Renew,
        Some(_) => {
            let seconds = u64::try_from(lease.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
            let duration = if seconds == 0 { DURATION } else { Duration::from_secs(seconds) };
            match duration.checked_sub(unchanged) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Take,
            }
        }
    }
}

/// The content of a Lease that `me` takes or renews at `now`. (no client required)
#[must_use]
pub fn held(previous: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let mine = previous.is_some_and(|lease| lease.holder_identity.as_deref() == Some(me));
    let transitions = previous.and_then(|lease| lease.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: previous
            .filter(|_| mine)
            .and_then(|lease| lease.acquire_time.clone())
            .or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if mine || previous.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }
}

/// The Lease is lost; whoever led must stop at once.
#[derive(Debug, Error)]
pub enum Lost {
    /// Another controller has it.
    #[error("the lease is held by `{holder}` now: stopping, so that never two controllers write")]
    Taken {
        /// Name of the other.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error("the lease could not be renewed for {} s: stopping, so that never two controllers write", DEADLINE.as_secs())]
    NotRenewed,
}

/// Takes, keeps and gives back the Lease.
pub(crate) struct Elector {
    api: Api<Lease>,
    name: String,
    me: String,
    metrics: Metrics,
    seen: Option<Lease>,
    changed: Instant,
}

impl Elector {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, me: String, metrics: Metrics) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), me, metrics, seen: None, changed: Instant::now() }
    }

    /// Waits until the Lease is this controller's.
    pub(crate) async fn acquire(&mut self) {
        tracing::info!(lease = self.name, me = self.me, "Waiting for the Lease");
        loop {
            match self.attempt().await {
                Ok(Step::Take | Step::Renew) => break,
                Ok(Step::Wait(left)) => tokio::time::sleep(left.min(self.jittered())).await,
                Err(error) => {
                    self.failed(&error);
                    tokio::time::sleep(self.jittered()).await;
                }
            }
        }
        tracing::info!(lease = self.name, me = self.me, "Leading");
        self.metrics.set_leader(true);
    }

    /// Renews the Lease until it is lost.
    pub(crate) async fn keep(&mut self) -> Lost {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            // However long an answer takes, leading ends in time.
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(Step::Take | Step::Renew)) => renewed = Instant::now(),
                Ok(Ok(Step::Wait(_))) => {
                    self.metrics.set_leader(false);
                    return Lost::Taken { holder: self.holder().unwrap_or_default() };
                }
                Ok(Err(error)) => self.failed(&error),
                Err(_) => {
                    self.metrics.set_leader(false);
                    return Lost::NotRenewed;
                }
            }
        }
    }

    /// Gives the Lease back, so that a successor need not wait until it runs out.
    pub(crate) async fn release(&mut self) {
        self.metrics.set_leader(false);
        let Some(mut lease) =
            self.seen.take().filter(|_| self.holder().is_none_or(|holder| holder == self.me))
        else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let written =
            tokio::time::timeout(TIMEOUT, self.api.replace(&self.name, &PostParams::default(), &lease)).await;
        match written {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "The Lease was given back"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "The Lease could not be given back; a successor waits until it runs out");
            }
            Err(_) => {
                tracing::warn!("Giving the Lease back took too long; a successor waits until it runs out");
            }
        }
    }

    // One look, and a write if it is due. Whoever comes second gets a conflict, looks again and sees the other.
    async fn attempt(&mut self) -> Result<Step, String> {
        let lease = limited(self.api.get_opt(&self.name)).await?;
        let renewed =
            |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if renewed(&lease) != renewed(&self.seen) {
            self.changed = Instant::now();
        }
        self.seen = lease;
        let spec = self.seen.as_ref().and_then(|lease| lease.spec.as_ref());
        let step = decide(spec, self.changed.elapsed(), &self.me);
        if matches!(step, Step::Wait(_)) {
            return Ok(step);
        }
        let spec = held(spec, &self.me, Timestamp::now());
        let written = match &self.seen {
            Some(lease) => {
                // With the resource version that was read, so that a write in between makes this one fail.
                let lease = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
                limited(self.api.replace(&self.name, &PostParams::default(), &lease)).await?
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                limited(self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }))
                    .await?
            }
        };
        self.seen = Some(written);
        self.changed = Instant::now();
        Ok(step)
    }

    fn holder(&self) -> Option<String> {
        self.seen.as_ref()?.spec.as_ref()?.holder_identity.clone()
    }

    fn failed(&self, error: &str) {
        self.metrics.lease_failed();
        tracing::warn!(lease = self.name, error, "The Lease could not be read or written; trying again");
    }

    // Candidates that began together should not go on in step.
    fn jittered(&self) -> Duration {
        let share = f64::from(blake3::hash(self.me.as_bytes()).as_bytes()[0]) / 255.0;
        RETRY.mul_f64(0.8 + 0.4 * share)
    }
}

async fn limited<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_its_holder_is_gone() {
        let seconds = Duration::from_secs;
        let table = [
            (None, 0, Step::Take),
            (Some(lease("")), 0, Step::Take),
            (Some(lease("me")), 100, Step::Renew),
            (Some(lease("other")), 0, Step::Wait(seconds(15))),
            (Some(lease("other")), 14, Step::Wait(seconds(1))),
            (Some(lease("other")), 15, Step::Take),
            (Some(LeaseSpec { lease_duration_seconds: None, ..lease("other") }), 14, Step::Wait(seconds(1))),
            (Some(LeaseSpec { lease_duration_seconds: Some(-1), ..lease("other") }), 16, Step::Take),
        ];
        for (lease, unchanged, expected) in table {
            assert_eq!(decide(lease.as_ref(), seconds(unchanged), "me"), expected, "{lease:?} {unchanged}");
        }
    }

    /// A holder whose clock is hours off must neither lose its Lease early nor keep it for ever.
    #[test]
    fn the_time_written_in_a_lease_does_not_matter() {
        for time in [Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            let spec = LeaseSpec { renew_time: Some(MicroTime(time)), ..lease("other") };
            assert_eq!(decide(Some(&spec), Duration::ZERO, "me"), Step::Wait(DURATION));
            assert_eq!(decide(Some(&spec), DURATION, "me"), Step::Take);
        }
    }

    #[test]
    fn transitions_count_changes_of_the_holder() {
        let now = Timestamp::from_second(100).unwrap();
        let renewed = held(Some(&lease("me")), "me", now);
        assert_eq!(renewed.lease_transitions, Some(3));
        assert_eq!(renewed.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        assert_eq!(renewed.renew_time, Some(MicroTime(now)));
        let taken = held(Some(&lease("other")), "me", now);
        assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(4), Some(MicroTime(now))));
        assert_eq!(held(None, "me", now).lease_transitions, Some(0));
    }

    #[test]
    fn a_leader_stops_before_another_can_begin() {
        assert!(DEADLINE + RETRY < DURATION);
    }
}
