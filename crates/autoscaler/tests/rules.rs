//! The rules, case by case, on a small pipeline that is driven by hand.

mod scene;

use autoscaler::{Condition, GroupState, Limit, OnUnknown, Policy, Reason, StartFrom};
use scene::{Scene, names, policy};

/// One jump to what the load needs, from wherever it stands, and no second one.
#[test]
fn a_step_is_answered_by_one_jump_to_a_number_worth_having() {
    for (load, least, most) in
        [(1.8, 2, 2), (1.97, 3, 3), (2.5, 3, 3), (3.4, 4, 4), (7.0, 8, 12), (10.0, 12, 12)]
    {
        let mut scene = Scene::steady(24, 0.8, 1);
        let changes = scene.drive(load, 300.0, &policy());
        let grown: Vec<u32> = changes.iter().map(|(_, replicas)| *replicas).collect();
        assert_eq!(grown.len(), 1, "load {load}: {changes:?}");
        assert!((least..=most).contains(&grown[0]), "load {load}: {grown:?}");
    }
}

/// As it was seen on a cluster: the first start of a pod has shown that pods consume ten seconds after they are asked for.
/// What keeps the objective of twenty seconds is enough; twice as many would only work the backlog off sooner.
#[test]
fn the_least_number_that_keeps_the_objective_is_enough() {
    let policy = Policy { target_lag_seconds: 20.0, min_replicas: 0, ..policy() };
    for (load, enough) in [(1.5, 2), (1.9, 3), (2.6, 4)] {
        let mut scene = Scene::steady(8, 0.5, 1);
        scene.drive(0.0, 900.0, &policy);
        scene.drive(0.5, 1800.0, &policy);
        assert_eq!(scene.replicas, 1, "it slept, and one is enough for what has woken it");
        scene.oldest = 0.0;
        let changes = scene.drive(load, 200.0, &policy);
        assert_eq!(
            changes.iter().map(|(_, to)| *to).collect::<Vec<_>>(),
            [enough],
            "load {load}: {changes:?}"
        );
        assert!(scene.oldest <= 20.0, "load {load}: {} s", scene.oldest);
    }
}

/// A reading with far more than before may be a dump or a step, and the next one tells. Where the objective has no time to spare it
/// is not waited for as long as usual; where there is hardly time for anything, nor is the answer.
#[test]
fn what_the_next_reading_settles_is_looked_at_soon() {
    for (target, soon) in [(60.0, false), (20.0, true), (10.0, false)] {
        let policy = Policy { target_lag_seconds: target, ..policy() };
        let mut scene = Scene::steady(24, 0.8, 1);
        assert_eq!(scene.look(&policy).look_again_seconds, None, "nothing new");
        scene.arrive(3.4);
        let first = scene.look(&policy);
        assert_eq!(first.look_again_seconds.is_some_and(|seconds| seconds < 3.0), soon, "{target} s");
        let second = scene.look(&policy);
        assert_eq!(second.reason, Reason::LagAboveTarget, "{}", second.explanation);
        assert_eq!(second.look_again_seconds, None, "it is settled");
    }
}

/// A load that goes and comes again: once it has shown how long it stays away, that is waited for.
#[test]
fn a_lull_that_was_seen_is_waited_out() {
    let mut scene = Scene::steady(24, 0.9, 1);
    let counts: Vec<usize> = [(7.0, 900.0), (0.9, 1500.0), (7.0, 900.0), (0.9, 1500.0), (7.0, 900.0)]
        .into_iter()
        .map(|(load, seconds)| scene.drive(load, seconds, &policy()).len())
        .collect();
    assert!(counts[1] > 0 && counts[3..] == [0, 0], "changes in each phase: {counts:?}");
    assert!(!scene.drive(0.9, 2400.0, &policy()).is_empty(), "what stays away for longer is over");
}

/// A load that rises in stages a second time: one growth, to what it needed the first time.
#[test]
fn a_load_that_comes_again_gets_what_it_needed_before() {
    for (away, grows_to) in [(1500.0, 12), (7000.0, 8)] {
        let mut scene = Scene::steady(24, 0.9, 1);
        scene.drive(10.5, 900.0, &policy());
        assert_eq!(scene.replicas, 12, "what it needs");
        scene.drive(3.4, away, &policy());
        assert_eq!(scene.replicas, 4, "what is left of it");
        let changes = scene.drive(6.5, 300.0, &policy());
        assert_eq!(changes.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [grows_to], "after {away} s");
    }
}

#[test]
fn the_objective_in_seconds_means_the_same_for_any_rate() {
    let changes = |capacity: f64| {
        let mut scene = Scene::steady(12, 0.9, 1);
        scene.capacity = capacity;
        scene.settle(&policy());
        scene.drive(4.5, 300.0, &policy())
    };
    let seconds =
        |changes: Vec<(f64, u32)>| changes.iter().map(|(time, to)| (time.round(), *to)).collect::<Vec<_>>();
    assert_eq!(seconds(changes(100.0)), seconds(changes(10_000.0)));
}

#[test]
fn lag_inside_the_objective_is_no_reason_to_act() {
    let mut scene = Scene::steady(24, 2.2, 3);
    scene.add_lag(3.0 * 100.0 * 4.0);
    let decision = scene.look(&policy());
    assert_eq!((decision.desired, decision.reason), (3, Reason::Steady));
}

#[test]
fn a_dump_is_worked_off_and_forgotten() {
    let mut scene = Scene::steady(24, 2.6, 3);
    scene.add_lag(250_000.0);
    let changes = scene.drive(2.6, 1500.0, &policy());
    let (up, down) = (changes[0].1, changes[changes.len() - 1].1);
    assert!(up >= 12, "{changes:?}");
    assert_eq!(down, 3, "{changes:?}");
    assert!(changes.len() <= 3, "{changes:?}");
}

/// Fewer only when they would have sufficed for the whole window.
#[test]
fn a_surplus_is_given_back_after_the_window_and_not_before() {
    let mut scene = Scene::steady(24, 2.2, 8);
    let changes = scene.drive(2.2, 1200.0, &policy());
    assert_eq!(changes.iter().map(|(_, to)| *to).collect::<Vec<_>>(), vec![3], "{changes:?}");
    let mut scene = Scene::steady(24, 2.2, 8);
    assert!(scene.drive(2.2, 150.0, &policy()).is_empty());
    let waiting = scene.look(&policy());
    assert_eq!((waiting.reason, waiting.needed), (Reason::Waiting, 3), "{}", waiting.explanation);
    assert!(waiting.next_eligible.is_some_and(|time| time > scene.time), "{waiting:?}");
}

/// Whatever the constant load, at most one change after things have settled (hysteresis).
#[test]
fn constant_load_does_not_oscillate() {
    for tenths in (3..=110_u32).step_by(4) {
        let load = f64::from(tenths) / 10.0;
        let mut scene = Scene::steady(24, load, 24.min(load.ceil() as u32 + 1));
        scene.drive(load, 1800.0, &policy());
        let later = scene.drive(load, 3600.0, &policy());
        assert!(later.len() <= 1, "load {load}: {later:?}");
        assert!(f64::from(scene.replicas) < load * 1.15 + 1.0 + f64::from(scene.gap()), "load {load}");
    }
}

#[test]
fn nothing_is_decided_while_pods_or_group_move() {
    type Disturb = fn(&mut Scene);
    let cases: [(&str, Disturb); 4] = [
        ("a pod is not ready", |scene| scene.ready = 2),
        ("a member is missing", |scene| scene.members = Some(2)),
        ("the group rebalances", |scene| scene.group = GroupState::Rebalancing),
        ("a rollout", |scene| scene.rollout = true),
    ];
    for (name, disturb) in cases {
        let mut scene = Scene::steady(24, 2.6, 3);
        scene.frozen_pods = true;
        disturb(&mut scene);
        scene.add_lag(30_000.0);
        let decision = scene.look(&policy());
        assert_eq!((decision.desired, decision.limited_by), (3, Limit::Converging), "{name}");
    }
}

#[test]
fn what_never_settles_does_not_stop_growth_for_ever() {
    let mut scene = Scene::steady(24, 2.6, 3);
    scene.ready = 2;
    scene.frozen_pods = true;
    scene.add_lag(100_000.0);
    let changes = scene.drive(4.0, 400.0, &policy());
    assert!(!changes.is_empty() && changes.len() <= 3, "{changes:?}");
}

#[test]
fn unknown_is_never_zero_and_never_less() {
    let mut scene = Scene::steady(24, 0.5, 8);
    scene.drive(0.5, 280.0, &policy());
    scene.blind = true;
    assert!(scene.drive(0.5, 3600.0, &policy()).is_empty());
    let decision = scene.look(&policy());
    assert_eq!((decision.reason, names(&decision)), (Reason::LagUnknown, vec!["LagUnknown"]));
    let floor = Policy { on_unknown: OnUnknown::Floor(12), ..policy() };
    assert_eq!(scene.drive(0.5, 300.0, &floor).first().map(|(_, to)| *to), Some(12));
}

#[test]
fn one_unknown_partition_stops_scale_downs_and_not_growth() {
    let mut scene = Scene::steady(24, 2.2, 8);
    scene.missing = Some(5);
    assert!(scene.drive(2.2, 1800.0, &policy()).is_empty());
    let changes = scene.drive(11.0, 120.0, &policy());
    assert!(changes.iter().any(|(_, to)| *to >= 12), "{changes:?}");
}

#[test]
fn an_idle_pipeline_sleeps_and_wakes_with_what_is_needed() {
    let policy = Policy { min_replicas: 0, ..policy() };
    let mut scene = Scene::steady(24, 4.0, 5);
    scene.drive(4.0, 300.0, &policy);
    let asleep = scene.drive(0.0, 900.0, &policy);
    assert_eq!(asleep.last().map(|(_, to)| *to), Some(0), "{asleep:?}");
    let awake = scene.drive(5.0, 120.0, &policy);
    assert!(awake[0].1 >= 6, "one jump from zero: {awake:?}");
    assert_eq!(awake.len(), 1, "{awake:?}");
}

/// As it was seen on a cluster: what sleeps is looked at every nine seconds only, and the last three of them say little of a rate.
#[test]
fn a_pipeline_that_rests_longer_than_usual_wakes_with_what_is_needed_too() {
    let policy = Policy { min_replicas: 0, target_lag_seconds: 20.0, ..policy() };
    let mut scene = Scene::steady(8, 0.5, 1);
    scene.drive(0.0, 900.0, &policy);
    assert_eq!(scene.replicas, 0);
    scene.arrive(2.4 * 3.0 / 9.0);
    let first = scene.look_after(9.0, &policy);
    assert_eq!((first.desired, first.reason), (0, Reason::Learning), "{}", first.explanation);
    assert!(first.look_again_seconds.is_some_and(|seconds| seconds < 3.0));
    scene.arrive(2.4);
    let second = scene.look(&policy);
    assert_eq!(second.reason, Reason::Wake);
    assert!(second.desired >= 3, "{}", second.explanation);
}

#[test]
fn one_event_wakes_within_one_reading() {
    let policy = Policy { min_replicas: 0, ..policy() };
    let mut scene = Scene::steady(24, 0.5, 1);
    scene.drive(0.0, 900.0, &policy);
    assert_eq!(scene.replicas, 0);
    scene.add_lag_on(3, 1.0);
    let decision = scene.look(&policy);
    assert_eq!((decision.desired, decision.reason), (1, Reason::Wake));
}

/// Sleeping where the group has never committed would lose its place.
#[test]
fn a_group_that_has_never_committed_does_not_sleep() {
    let policy = Policy { min_replicas: 0, start_from: StartFrom::Latest, ..policy() };
    let mut scene = Scene::steady(4, 0.5, 1);
    scene.never_committed = true;
    assert!(scene.drive(0.0, 1800.0, &policy).is_empty());
    scene.never_committed = false;
    assert_eq!(scene.drive(0.0, 600.0, &policy).last().map(|(_, to)| *to), Some(0));
}

/// Transactions leave a record that is counted and never delivered (KEDA #5675: never to zero).
#[test]
fn control_records_do_not_keep_a_pipeline_awake_nor_wake_it() {
    let policy = Policy { min_replicas: 0, ..policy() };
    let mut scene = Scene::steady(4, 0.5, 1);
    scene.drive(0.0, 60.0, &policy);
    scene.control_records = 1;
    let changes = scene.drive(0.0, 1200.0, &policy);
    assert_eq!(changes.iter().map(|(_, to)| *to).collect::<Vec<_>>(), vec![0], "{changes:?}");
    assert!(scene.drive(0.0, 600.0, &policy).is_empty());
}

#[test]
fn a_stuck_partition_is_told_and_adds_no_replicas() {
    let mut scene = Scene::steady(24, 2.4, 3);
    scene.stuck = vec![7];
    let changes = scene.drive(2.4, 900.0, &policy());
    assert!(changes.is_empty(), "{changes:?}");
    let decision = scene.look(&policy());
    let stalled = decision.conditions.iter().find(|condition| condition.name() == "Stalled");
    assert!(
        matches!(stalled, Some(Condition::Stalled { partitions, .. }) if partitions == &[7]),
        "{decision:?}"
    );
}

/// A consumer that waits for its database, or for a person, says that it is not ready; that must not hide why, nor bring more
/// of its kind.
#[test]
fn a_stuck_partition_is_told_though_its_consumer_is_not_ready() {
    for stuck in [vec![7], (0..24).collect()] {
        let mut scene = Scene::steady(24, 2.4, 3);
        (scene.frozen_pods, scene.ready) = (true, 2);
        scene.stuck = stuck.clone();
        let changes = scene.drive(2.4, 900.0, &policy());
        assert!(changes.is_empty(), "{changes:?}");
        let decision = scene.look(&policy());
        assert_eq!(names(&decision), ["Stalled"], "{stuck:?}: {decision:?}");
    }
}

/// A rebalance in between does not make the clock start again.
#[test]
fn a_stuck_partition_is_told_in_time_though_the_group_moves() {
    let mut scene = Scene::steady(24, 2.4, 3);
    scene.stuck = vec![7];
    scene.drive(2.4, 100.0, &policy());
    scene.group = GroupState::Rebalancing;
    scene.drive(2.4, 10.0, &policy());
    scene.group = GroupState::Stable;
    scene.drive(2.4, 60.0, &policy());
    assert_eq!(names(&scene.look(&policy())), ["Stalled"]);
}

#[test]
fn one_slow_event_is_no_stall() {
    let mut scene = Scene::steady(24, 2.4, 3);
    scene.stuck = vec![7];
    scene.drive(2.4, 60.0, &policy());
    assert_eq!(names(&scene.look(&policy())), Vec::<&str>::new());
    scene.stuck.clear();
    assert!(scene.drive(2.4, 300.0, &policy()).is_empty());
}

#[test]
fn a_hot_partition_is_told_and_not_chased() {
    let mut scene = Scene::steady(24, 2.4, 3);
    scene.weights[11] = 24.0 * 0.6;
    let changes = scene.drive(3.0, 600.0, &policy());
    assert!(changes.iter().all(|(_, to)| *to <= 6), "{changes:?}");
    let decision = scene.look(&policy());
    let hot = decision.conditions.iter().find(|condition| condition.name() == "HotPartition");
    assert!(matches!(hot, Some(Condition::HotPartition { partition: 11, .. })), "{decision:?}");
}

#[test]
fn a_database_at_its_limit_costs_one_futile_growth_at_most() {
    let mut scene = Scene::steady(24, 2.6, 4);
    scene.sink = Some(350.0);
    let changes = scene.drive(9.0, 1200.0, &policy());
    let decision = scene.look(&policy());
    assert!(names(&decision).contains(&"SinkSaturated"), "{changes:?} {decision:?}");
    assert!(scene.replicas <= 6 && changes.len() <= 4, "{changes:?}");
}

#[test]
fn bounds_hold_and_are_named() {
    let cases = [
        (Policy { max_replicas: Some(4), ..policy() }, 4, Limit::MaxReplicas, "AtMaximum"),
        (
            Policy { max_connections: Some(9), connections_per_replica: 3, ..policy() },
            3,
            Limit::Connections,
            "AtMaximum",
        ),
    ];
    for (policy, most, limit, condition) in cases {
        let mut scene = Scene::steady(12, 2.4, 3);
        scene.drive(9.0, 300.0, &policy);
        let decision = scene.look(&policy);
        assert_eq!((scene.replicas, decision.limited_by), (most, limit), "{}", decision.explanation);
        assert!(names(&decision).contains(&condition), "{decision:?}");
        assert!(decision.needed > most, "{decision:?}");
    }
    let mut scene = Scene::steady(4, 2.4, 3);
    scene.drive(9.0, 40.0, &policy());
    assert_eq!(names(&scene.look(&policy())), Vec::<&str>::new(), "that may yet pass");
    scene.drive(9.0, 260.0, &policy());
    let decision = scene.look(&policy());
    assert_eq!((scene.replicas, names(&decision)), (4, vec!["AtPartitionCount"]), "{}", decision.explanation);
}

#[test]
fn a_schedule_raises_the_floor_and_lets_go_again() {
    let scheduled = Policy { schedule_floor: Some(8), ..policy() };
    let mut scene = Scene::steady(24, 1.6, 2);
    let decision = scene.look(&scheduled);
    assert_eq!(
        (decision.desired, decision.limited_by, decision.reason),
        (8, Limit::Schedule, Reason::Bounds)
    );
    scene.drive(1.6, 900.0, &scheduled);
    assert_eq!(scene.replicas, 8);
    scene.drive(1.6, 1800.0, &policy());
    assert_eq!(scene.replicas, 2);
}

/// A window that opens before there was any load must not keep its consumers for ever.
#[test]
fn what_has_never_had_work_goes_down_to_the_floor_too() {
    let scheduled = Policy { schedule_floor: Some(8), ..policy() };
    let mut scene = Scene::steady(24, 0.0, 1);
    scene.drive(0.0, 120.0, &scheduled);
    assert_eq!(scene.replicas, 8);
    scene.drive(0.0, 600.0, &policy());
    assert_eq!(scene.replicas, 1);
}

#[test]
fn beyond_the_budget_only_the_objective_moves_anything() {
    let policy = Policy { changes_per_hour: 0, ..policy() };
    let mut scene = Scene::steady(24, 1.6, 8);
    assert!(scene.drive(1.6, 1800.0, &policy).is_empty());
    assert_eq!(scene.look(&policy).limited_by, Limit::Budget);
    assert!(!scene.drive(12.0, 120.0, &policy).is_empty());
}

#[test]
fn a_dry_run_stays_ready_to_act() {
    let mut scene = Scene::steady(24, 0.8, 1);
    scene.dry_run = true;
    scene.drive(6.0, 60.0, &policy());
    let first = scene.look(&policy()).desired;
    scene.drive(6.0, 600.0, &policy());
    assert!(first > 1 && scene.look(&policy()).desired >= first, "nothing is taken for done");
}

/// Predicted and actual time of a drain, which the controller exports.
#[test]
fn a_drain_is_predicted_and_compared() {
    let mut scene = Scene::steady(24, 2.0, 3);
    scene.add_lag(60_000.0);
    scene.drive(2.0, 600.0, &policy());
    let [outcome] = scene.drains[..] else { panic!("one drain, not {:?}", scene.drains) };
    let error = (outcome.actual_seconds - outcome.predicted_seconds).abs() / outcome.predicted_seconds;
    assert!(error < 0.35, "{outcome:?}");
}

/// The growth from one replica is the only experiment there is; it shows a limit that is more than one replica's worth.
#[test]
fn a_limit_of_the_database_between_one_replica_and_all_is_found_and_used() {
    let mut scene = Scene::steady(6, 0.5, 1);
    scene.sink = Some(170.0);
    let changes = scene.drive(2.6, 600.0, &policy());
    assert_eq!(scene.replicas, 2, "two replicas store 170 per second: {changes:?}");
    assert_eq!(names(&scene.look(&policy())), vec!["SinkSaturated"]);
}

/// A rollout is waited for, unless it costs so much that the objective will be lost meanwhile.
#[test]
fn a_rollout_is_made_up_for_only_if_it_costs_the_objective() {
    for (stored, grows) in [(260.0, false), (150.0, true)] {
        let mut scene = Scene::steady(24, 2.4, 3);
        (scene.rollout, scene.sink) = (true, Some(stored));
        let changes = scene.drive(2.4, 100.0, &policy());
        assert_eq!(!changes.is_empty(), grows, "{stored} per second: {changes:?}");
    }
}

/// A steady rise to nine times the load: a few large steps, not one for each number worth having.
#[test]
fn a_steady_rise_is_met_with_few_steps() {
    let mut scene = Scene::steady(24, 0.9, 1);
    let mut steps = Vec::new();
    for minute in 0..30_u32 {
        let load = 0.9 + 0.25 * f64::from(minute);
        steps.extend(scene.drive(load, 60.0, &policy()).into_iter().map(|(_, to)| to));
    }
    assert!(steps.len() <= 4 && steps.last() >= Some(&8), "{steps:?}");
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "never down while it rises: {steps:?}");
}

/// A state that was written where the clock is an hour ahead: holding the number until that hour has passed would be blind.
#[test]
fn a_clock_that_goes_back_begins_anew_and_keeps_what_was_measured() {
    for (back, judged) in [(30.0, false), (3600.0, true)] {
        let mut scene = Scene::steady(24, 0.8, 1);
        let known = scene.look(&policy()).estimates.capacity_per_replica;
        assert!(known.is_some());
        scene.time -= back;
        let decision = scene.look(&policy());
        let measured = decision.estimates.capacity_per_replica.filter(|_| judged);
        assert_eq!(measured, known.filter(|_| judged), "{back} s");
        assert_eq!(decision.estimates.lag_events.is_some(), judged, "{back} s");
        if judged {
            let grown: Vec<u32> = scene.drive(3.4, 300.0, &policy()).iter().map(|(_, to)| *to).collect();
            assert_eq!(grown, [4], "one jump, by what is known of the consumers");
        }
    }
}
