//! Deliveries that come again and out of order, and tasks that fail for a moment: consumers do what
//! they must, and one that counts on being told once is found.

use super::*;

#[test]
fn events_that_come_again_and_out_of_order_break_no_promise() {
    let plan = SimPlan::default();
    let mut redelivered = 0;
    for seed in (SEEDS + 1..SEEDS + 40).step_by(2) {
        let report = run_seed(seed, &plan).unwrap_or_else(|failure| panic!("{failure}"));
        redelivered += report.counts.redelivered;
    }
    assert!(redelivered >= 200, "only {redelivered} deliveries came again");
}

#[test]
fn every_other_seed_delivers_once() {
    let report = run_seed(SEEDS, &SimPlan::default()).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(report.counts.redelivered, 0);
}

#[test]
fn reservations_that_fail_now_and_then_are_made_in_the_end() {
    let plan = SimPlan { functions: planted::functions_that_wait(), ..SimPlan::default() };
    for seed in 0..SEEDS {
        run_seed(seed, &plan).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn a_reservation_without_its_guard_does_harm_only_where_events_come_again() {
    let plan = plan_with("reserve-again", ORDERS).unwrap();
    for seed in (0..6).step_by(2) {
        run_seed(seed, &plan).unwrap_or_else(|failure| panic!("{failure}"));
    }
    assert!((1..7).step_by(2).any(|seed| run_seed(seed, &plan).is_err()));
}
