//! What a transaction promises: 100 items and no more, each once, all of its writes or none. A
//! refused one is compared by digest, which covers every effect and the sequence of records.

use wims_stack::table::Condition;
use wims_stack::{Field, QueueRef, TargetRef, Template};

use super::*;
use crate::quiet::{self, Quiet};

/// A quiet world whose table holds new items with these `sk`.
fn holding(items: &[&str]) -> Quiet {
    let (queue, message) = (QueueRef::new("noted"), Template::path("$.detail.sk"));
    let stack = quiet::stack(TargetRef::Queue(queue, message));
    let mut quiet = Quiet::start(&stack, &quiet::functions());
    items.iter().for_each(|sk| quiet.put(sk));
    quiet.pass_ms(10);
    quiet
}

fn write(sk: &str, condition: Option<Condition>, action: Action) -> Write {
    Write { pk: "a".into(), sk: sk.into(), condition, action }
}

fn put(sk: &str) -> Write {
    write(sk, Some(Condition::NotExists), Action::Put(quiet::item(sk)))
}

fn set(sk: &str, state: &str) -> Write {
    write(sk, Some(Condition::Exists), Action::Update(vec![Update::set_str("state", state)]))
}

fn transact(quiet: &mut Quiet, writes: &[Write]) -> Result<(), TransactFailure> {
    let table = table(quiet);
    quiet.engine.transact(table, writes, Cause::default())
}

/// Why a transaction is refused, which changes nothing.
fn refused(quiet: &mut Quiet, writes: &[Write]) -> TransactFailure {
    let before = quiet.engine.digest();
    let failure = transact(quiet, writes).expect_err("it is refused");
    assert_eq!(quiet.engine.digest(), before, "{failure}");
    failure
}

fn table(quiet: &Quiet) -> u16 {
    quiet.engine.state.number("table/T").expect("it is declared")
}

/// How many items the table holds.
fn count(quiet: &Quiet) -> usize {
    quiet.engine.state.table(table(quiet)).len()
}

#[test]
fn a_hundred_items_are_one_transaction_and_one_more_is_refused() {
    let mut quiet = holding(&[]);
    let new = |count: usize| -> Vec<Write> { (0..count).map(|i| put(&i.to_string())).collect() };
    let failure = refused(&mut quiet, &new(101));
    assert_eq!(failure, TransactFailure::Shape("101 items".into()));
    assert!(failure.to_string().contains("at most 100 items"), "{failure}");
    assert_eq!(count(&quiet), 0);
    assert_eq!(transact(&mut quiet, &new(100)), Ok(()));
    assert_eq!(count(&quiet), 100);
    quiet.pass_ms(10);
    assert_eq!(quiet.messages("noted").len(), 100, "each is a change of its own");
}

#[test]
fn an_item_twice_in_one_transaction_is_refused_whatever_is_done_to_it() {
    let mut quiet = holding(&["1"]);
    let update = || Action::Update(vec![Update::set_str("state", "AGAIN")]);
    for again in [Action::Put(quiet::item("1")), update(), Action::Delete, Action::Check] {
        let writes = [put("2"), set("1", "CHANGED"), put("3"), write("1", None, again)];
        let failure = refused(&mut quiet, &writes);
        assert_eq!(failure, TransactFailure::Shape("item a 1 twice".into()));
    }
    // The same sort key in another partition is another item.
    let elsewhere = quiet::item("1").with(&[("pk", Some(Field::Str("b")))]);
    let action = Action::Put(elsewhere);
    let elsewhere = Write { pk: "b".into(), sk: "1".into(), condition: None, action };
    assert_eq!(transact(&mut quiet, &[set("1", "CHANGED"), elsewhere]), Ok(()));
    assert_eq!((quiet.item("1").str("state"), count(&quiet)), (Some("CHANGED"), 2));
}

#[test]
fn when_the_last_condition_fails_nothing_before_it_is_written() {
    let mut quiet = holding(&["1", "2"]);
    let absent = write("absent", Some(Condition::Exists), Action::Check);
    let writes = [put("3"), set("1", "CHANGED"), write("2", None, Action::Delete), absent];
    let failure = refused(&mut quiet, &writes);
    let (pk, sk) = ("a".into(), "absent".into());
    assert_eq!(failure, TransactFailure::Condition { pk, sk }, "it says which");
    assert_eq!((quiet.item("1").str("state"), count(&quiet)), (Some("NEW"), 2));
    // It was that condition alone.
    assert_eq!(transact(&mut quiet, &writes[..3]), Ok(()));
    assert_eq!((quiet.item("1").str("state"), count(&quiet)), (Some("CHANGED"), 2));
    assert_eq!(quiet.item("3"), &quiet::item("3"));
}

#[test]
fn when_the_last_write_cannot_be_made_nothing_before_it_is_written() {
    let mut quiet = holding(&["1", "2"]);
    let add = write("2", None, Action::Update(vec![Update::Add("missing", 1.into())]));
    let failure = refused(&mut quiet, &[put("3"), set("1", "CHANGED"), add]);
    assert_eq!(failure, TransactFailure::Update(UpdateError::Missing("missing".into())));
    let astray = write("4", None, Action::Put(quiet::item("5")));
    let failure = refused(&mut quiet, &[put("3"), set("1", "CHANGED"), astray]);
    assert_eq!(failure, TransactFailure::Shape("4 under another key".into()));
}

#[test]
fn writes_that_change_nothing_are_no_records() {
    let mut quiet = holding(&["1", "2", "3"]);
    let before = quiet.engine.digest();
    let same = write("2", None, Action::Put(quiet::item("2")));
    let gone = write("gone", None, Action::Delete);
    let check = write("3", Some(Condition::Exists), Action::Check);
    assert_eq!(transact(&mut quiet, &[set("1", "NEW"), same, gone, check]), Ok(()));
    assert_eq!(quiet.engine.digest(), before);
}
