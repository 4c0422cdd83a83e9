//! Somebody else who sets the replicas of the Deployment: put right a few times, then told and left alone for a while.
//!
//! Two that undo each other's numbers for ever would move partitions every few seconds. Of the two, the operator can give in.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

/// So many changes by somebody else …
const MOST_CHANGES: usize = 3;
/// … within this time are no slip of a hand.
const WINDOW: Duration = Duration::from_secs(300);
/// The number is left alone until nobody has changed it for so long; twice as long each time that it begins again …
const PAUSE: Duration = Duration::from_secs(300);
/// … and at most for so long. After as long without any change all is forgotten.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Who sets the replicas of one Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contest {
    /// What the operator set last, and the version that came of it.
    set: Option<(i32, u64)>,
    /// The latest version that is somebody else's.
    noted: Option<u64>,
    /// When somebody else changed the number, of late.
    changes: Vec<Instant>,
    truce: Option<Truce>,
}

/// The operator leaves the number alone.
#[derive(Clone, Debug, PartialEq)]
struct Truce {
    /// The last change by somebody else.
    last: Instant,
    pause: Duration,
    who: Option<String>,
}

impl Contest {
    /// The operator has set this number.
    pub(crate) fn set(&mut self, replicas: i32, version: Option<u64>) {
        self.set = version.map(|version| (replicas, version));
    }

    /// Whether the operator has set this number already, and the watch does not show it yet.
    pub(crate) fn is_on_its_way(&self, replicas: i32, seen: Option<u64>) -> bool {
        self.set.is_some_and(|(set, version)| set == replicas && seen.is_some_and(|seen| seen < version))
    }

    /// Looks at the Deployment. True if somebody else has just changed its replicas and is given way to, so that it is worth asking
    /// who that is.
    pub(crate) fn look(&mut self, replicas: i32, version: Option<u64>, now: Instant) -> bool {
        if self.truce.as_ref().is_some_and(|truce| now - truce.last >= truce.pause + LONGEST_PAUSE) {
            self.truce = None;
        }
        let (Some((set, own)), Some(version)) = (self.set, version) else { return false };
        if version <= own || replicas == set || self.noted == Some(version) {
            return false;
        }
        self.noted = Some(version);
        self.changes.retain(|at| now - *at < WINDOW);
        self.changes.push(now);
        let holds = self.holds(now);
        match &mut self.truce {
            Some(truce) => {
                if !holds {
                    truce.pause = (2 * truce.pause).min(LONGEST_PAUSE);
                }
                truce.last = now;
            }
            None if self.changes.len() >= MOST_CHANGES => {
                self.truce = Some(Truce { last: now, pause: PAUSE, who: None });
            }
            None => return false,
        }
        true
    }

    /// Whether the number is left alone.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.truce.as_ref().is_some_and(|truce| now - truce.last < truce.pause)
    }

    /// Who sets the number, by the name of its field manager.
    pub(crate) fn name(&mut self, who: Option<String>) {
        if let Some(truce) = &mut self.truce {
            truce.who = who.or(truce.who.take());
        }
    }

    /// What is to be said of it while the number is left alone.
    pub(crate) fn message(&self, deployment: &str) -> String {
        let who = self.truce.as_ref().and_then(|truce| truce.who.as_deref());
        let who = who.map_or_else(|| "Somebody".to_owned(), |who| format!("`{who}`"));
        let minutes = self.truce.as_ref().map_or(PAUSE, |truce| truce.pause).as_secs() / 60;
        format!(
            "{who} sets the replicas of Deployment `{deployment}` again and again, so the operator leaves them alone until nobody has changed them for {minutes} minutes. \
             Let another autoscaler target the AnalyticsPipeline, with `spec.scaling.mode: External`, or remove it."
        )
    }
}

/// The manager, other than `own`, that has set `spec.replicas` last.
pub(crate) fn manager_of_replicas(fields: &[ManagedFieldsEntry], own: &str) -> Option<String> {
    let sets_replicas = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some())
            && entry.manager.as_deref() != Some(own)
    };
    let latest =
        fields.iter().filter(sets_replicas).max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    latest?.manager.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Sets 1 after each foreign change that is not given way to, as a reconcile would.
    struct Play {
        contest: Contest,
        version: u64,
        now: Instant,
        written: usize,
    }

    impl Play {
        fn begin() -> Self {
            let mut contest = Contest::default();
            contest.set(1, Some(1));
            Self { contest, version: 1, now: Instant::now(), written: 0 }
        }

        fn after(&mut self, seconds: u64) -> bool {
            self.now += Duration::from_secs(seconds);
            self.contest.look(1, Some(self.version), self.now);
            self.contest.holds(self.now)
        }

        fn foreign(&mut self, replicas: i32) -> bool {
            self.version += 1;
            self.contest.look(replicas, Some(self.version), self.now);
            let holds = self.contest.holds(self.now);
            if !holds {
                self.version += 1;
                self.written += 1;
            }
            self.contest.set(if holds { replicas } else { 1 }, Some(self.version));
            holds
        }
    }

    #[test]
    fn whoever_insists_is_given_way_to_until_they_have_stopped() {
        let mut play = Play::begin();
        assert!(!play.foreign(5) && !play.after(15) && !play.foreign(5) && !play.after(15), "a slip or two");
        assert!(play.foreign(5), "the third is meant so");
        assert_eq!(play.written, 2);
        assert!(play.after(200) && play.foreign(7), "it goes on");
        assert!(play.after(299), "for five minutes after the last change");
        assert!(!play.after(2));
        assert!(play.foreign(5), "the same again at once, not after three more");
        assert!(play.after(599) && !play.after(2), "and for longer");
        assert_eq!(play.written, 2);
    }

    #[test]
    fn hands_that_slip_now_and_then_are_put_right_each_time() {
        let mut play = Play::begin();
        for _ in 0..10 {
            assert!(!play.foreign(5));
            assert!(!play.after(200));
        }
        assert_eq!(play.written, 10);
    }

    #[test]
    fn an_old_quarrel_is_forgotten() {
        let mut play = Play::begin();
        assert_eq!([play.foreign(5), play.foreign(5), play.foreign(5)], [false, false, true]);
        play.after(300 + 3600);
        assert!(!play.foreign(5));
    }

    #[test]
    fn neither_own_writes_nor_other_fields_nor_the_same_look_count() {
        let mut contest = Contest::default();
        let now = Instant::now();
        assert!(!contest.look(9, Some(5), now), "nothing was set here");
        contest.set(3, Some(5));
        for (replicas, version) in [(1, Some(4)), (3, Some(5)), (3, Some(9)), (7, None)] {
            contest.look(replicas, version, now);
            assert!(contest.changes.is_empty(), "{replicas} {version:?}");
        }
        for _ in 0..5 {
            contest.look(4, Some(10), now);
        }
        assert_eq!(contest.changes.len(), 1);
        assert!(contest.is_on_its_way(3, Some(4)) && !contest.is_on_its_way(3, Some(5)));
        assert!(!contest.is_on_its_way(4, Some(4)));
    }

    #[test]
    fn who_it_is_stands_in_the_managed_fields() {
        let entry = |manager: &str, time: &str, fields: serde_json::Value| -> ManagedFieldsEntry {
            serde_json::from_value(json!({
                "manager": manager, "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
                "time": time, "fieldsV1": fields, "subresource": "scale",
            }))
            .unwrap()
        };
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let entries = [
            entry("own", "2026-01-01T00:00:09Z", replicas.clone()),
            entry("kubectl", "2026-01-01T00:00:01Z", replicas.clone()),
            entry("kube-controller-manager", "2026-01-01T00:00:05Z", replicas),
            entry("other", "2026-01-01T00:00:07Z", json!({"f:spec": {"f:paused": {}}})),
        ];
        assert_eq!(manager_of_replicas(&entries, "own").as_deref(), Some("kube-controller-manager"));
        assert_eq!(manager_of_replicas(&entries[..1], "own"), None);
        let mut play = Play::begin();
        assert_eq!([play.foreign(5), play.foreign(5), play.foreign(5)], [false, false, true]);
        play.contest.name(Some("keda".into()));
        play.contest.name(None);
        let message = play.contest.message("clicks-consumer");
        assert!(message.contains("`keda`") && message.contains("5 minutes"), "{message}");
    }
}
