//! How few changes a load that comes and goes is followed with, case by case.

#[allow(dead_code, reason = "the scene serves other tests too; these need a part of it")]
mod scene;

use autoscaler::{Limit, Reason};
use scene::{Scene, policy};

/// The numbers gone to in each phase: a load for some seconds.
fn course(scene: &mut Scene, phases: &[(f64, f64)]) -> Vec<Vec<u32>> {
    let one = |(load, seconds): &(f64, f64)| {
        scene.drive(*load, *seconds, &policy()).into_iter().map(|(_, to)| to).collect()
    };
    phases.iter().map(one).collect()
}

/// Replicas that the peak did not need either may be given back meanwhile; that does not end the waiting for the peak.
#[test]
fn a_lull_is_waited_out_though_the_peak_has_replicas_to_spare() {
    for (peak, enough, spare) in [(7.0, 8, 12), (5.5, 6, 8), (3.5, 4, 6)] {
        let mut scene = Scene::steady(24, 0.5, 1);
        let seen = course(&mut scene, &[(peak, 600.0), (0.5, 600.0), (peak, 600.0)]);
        assert_eq!(seen, [vec![enough], vec![1], vec![enough]], "peak {peak}");
        // As after a backlog that called for more than the arrivals do.
        scene.replicas = spare;
        let phases: Vec<(f64, f64)> = (0..10).map(|turn| ([0.5, peak][turn % 2], 600.0)).collect();
        let seen: Vec<u32> = course(&mut scene, &phases).concat();
        assert_eq!(seen, [enough], "peak {peak}: only what is never needed goes");
    }
}

/// Two scale-downs of one fall lie three windows apart; one before a growth and one after it are of two falls.
#[test]
fn what_was_lowered_before_a_growth_does_not_keep_what_the_growth_brought() {
    for (base, enough, peak) in [(2.6, 3, 12), (3.4, 4, 12)] {
        let mut scene = Scene::steady(24, base, 6);
        let before = course(&mut scene, &[(base, 900.0), (9.0, 120.0)]);
        assert_eq!(before, [vec![enough], vec![peak]], "base {base}");
        let after = scene.drive(base, 1500.0, &policy());
        assert!(after.len() == 1 && after[0].1 == enough && after[0].0 < 900.0, "base {base}: {after:?}");
    }
}

/// A step that comes again after its replicas were given back gets what it got the first time.
#[test]
fn what_fell_and_comes_again_is_no_rise_that_goes_on() {
    for (load, enough) in [(7.0, 8), (5.5, 6), (3.5, 4)] {
        let mut scene = Scene::steady(24, 0.5, 1);
        let seen = course(&mut scene, &[(load, 600.0), (0.5, 540.0), (load, 300.0)]);
        assert_eq!(seen, [vec![enough], vec![1], vec![enough]], "load {load}");
    }
}

/// Consumers that are busy whatever they have to do: fewer are tried, but not again within the hour what had to be taken back.
#[test]
fn a_trial_that_failed_is_not_made_again_within_the_hour() {
    let mut scene = Scene::steady(12, 1.6, 2);
    scene.busy_gain = 60.0;
    scene.settle(&policy());
    assert_eq!(course(&mut scene, &[(1.6, 3600.0)]), [[1, 2]]);
}

/// The more changes there were, the longer a scale-down waits that saves little. It is said what keeps it, and until when. One
/// that saves half of the replicas does not wait for longer than the window.
#[test]
fn what_saves_little_waits_the_longer_the_more_changes_there_were() {
    let waits = |changes: usize, spare: u32| {
        let mut scene = Scene::steady(24, 5.2, 6);
        for turn in 0..changes {
            scene.replicas = [spare, 6][turn % 2];
            scene.look(&policy());
        }
        let begin = scene.time;
        let mut told = None;
        let gone = scene.drive(5.2, 300.0, &policy()).first().map(|(seconds, _)| *seconds);
        let gone = gone.or_else(|| {
            scene.drive(5.2, 1000.0, &policy());
            let waiting = scene.look(&policy());
            assert_eq!((waiting.desired, waiting.reason), (spare, Reason::Waiting), "{changes} changes");
            told = waiting.next_eligible.map(|time| (waiting.limited_by, time - begin));
            let later = scene.time - begin;
            scene.drive(5.2, 7200.0, &policy()).first().map(|(seconds, _)| later + seconds)
        });
        (gone.unwrap_or(f64::INFINITY), told)
    };
    for (changes, shortest, longest) in [(3, 1500.0, 4000.0), (5, 2500.0, 6000.0)] {
        let (gone, told) = waits(changes, 8);
        assert!((shortest..longest).contains(&gone), "{changes} changes: {gone} s");
        let (limited_by, at) = told.expect("it waits");
        assert_eq!(limited_by, Limit::Budget, "{changes} changes");
        assert!((at - gone).abs() <= 5.0, "{changes} changes: told {at} s, gone after {gone} s");
    }
    for changes in [1, 3, 5] {
        assert!(waits(changes, 12).0 <= 300.0, "half of the replicas, {changes} changes");
    }
}
