//! A queue of the article's services forgets a message after four days (SQS, "message retention
//! period"). None of ours forgets: what waits, and what is dead, is there until it is done with.

use super::*;

/// Longer than any default of those services.
const FIVE_DAYS_S: u64 = 5 * 24 * HOUR_S;

#[test]
fn a_dead_payment_is_kept_past_four_days_and_paid_once_it_is_sent_back() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 422, 404);
    let order = shop.order(7);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&order)), (Some("ON_HOLD"), Some("FAILED")));
    let letter = shop.messages("payments-dlq").remove(0);
    shop.answers(200, 404);
    shop.pass_s(FIVE_DAYS_S);
    assert_eq!(shop.messages("payments-dlq"), [letter], "it is there as it was");
    assert_eq!(states(&shop.stored(&order)), (Some("ON_HOLD"), Some("FAILED")));

    assert_eq!(shop.redrive("payments-dlq"), 1);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&order)), (Some("READY"), Some("PAID")));
    assert_eq!(shop.queue("payments-dlq"), (0, 0, 0));
}

#[test]
fn a_payment_whose_turn_does_not_come_for_more_than_four_days_is_made_when_it_does() {
    let (stack, functions) = (stack(), fns::all());
    // The credentials are wrong: one message a minute finds out whether they still are.
    let mut shop = Shop::open(&stack, &functions, 401, 401);
    let order = shop.order(7);
    shop.pass_s(FIVE_DAYS_S);
    let waiting = shop.messages("payments-queue");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].body.str("orderId"), Some(order.as_str()));
    assert_eq!(waiting[0].attempts, 0, "none was used");
    assert_eq!(shop.queue("payments-dlq"), (0, 0, 0));

    shop.answers(200, 404);
    shop.pass_s(65);
    assert_eq!(states(&shop.stored(&order)), (Some("READY"), Some("PAID")));
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
}
