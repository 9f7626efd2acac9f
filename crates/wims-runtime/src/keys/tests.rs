//! Keys through an engine in its quiet world, and the table they are in.

use wims_stack::table::{Action, Condition, Write};
use wims_stack::{Field, QueueRef, TargetRef, Template};

use super::*;
use crate::engine::EngineOptions;
use crate::functions::{Function, Functions, RouteInput, Routed};
use crate::io::Input;
use crate::quiet::{self, Quiet};

/// So small that sweeps happen soon.
const SEGMENT_BYTES: u64 = 256 << 10;
const HOUR_MS: u64 = 3_600_000;

/// Puts an item; its reply is the id of the request.
fn put(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let reply = Doc::text(&format!("{:x}", input.id));
    let sk = input.arguments.str("sk").unwrap_or("");
    let write = Write {
        pk: "a".into(),
        sk: sk.into(),
        condition: Some(Condition::NotExists),
        action: Action::Put(quiet::item(sk)),
    };
    Ok(Routed { writes: vec![write], reply })
}

fn functions() -> Functions {
    quiet::functions().with("put", Function::Route(put))
}

fn noted() -> TargetRef {
    TargetRef::Queue(QueueRef::new("noted"), Template::path("$.detail.sk"))
}

fn start(keys_max: usize) -> Quiet {
    let options =
        EngineOptions { segment_bytes: SEGMENT_BYTES, keys_max, ..EngineOptions::default() };
    Quiet::start_with(&quiet::stack(noted()), &functions(), options)
}

fn restart(quiet: Quiet) -> Quiet {
    quiet.restart(&quiet::stack(noted()), &functions())
}

/// A request that puts this item under a key.
fn request(key: &str, sk: &str) -> impl FnOnce(crate::io::Ticket) -> Input {
    let arguments = Doc::object(&[("sk", Field::Str(sk))]);
    let key = Some(Box::new(RequestKey::of(b"", "put", key.as_bytes(), &arguments)));
    let (route, history, trace) = ("put", None, None);
    move |ticket| Input::Call { ticket, route, arguments, history, trace, key }
}

/// What an answer says: whether the request was carried out before, and the id that it got.
fn told(answer: &Answer) -> (bool, &str) {
    let (repeated, reply) = match answer {
        Answer::Done(reply) => (false, reply),
        Answer::Repeated(reply) => (true, reply),
        other => panic!("it is not carried out: {other:?}"),
    };
    (repeated, reply.view().as_str().expect("an id"))
}

fn refused(answer: &Answer) -> RefusalKind {
    match answer {
        Answer::Refused(refusal) => refusal.kind,
        other => panic!("it is not refused: {other:?}"),
    }
}

fn items(quiet: &Quiet) -> usize {
    let table = quiet.engine.state.number("table/T").expect("it is declared");
    quiet.engine.state.table(table).len()
}

#[test]
fn a_repeated_request_writes_nothing_and_gets_the_id_of_the_first_after_a_restart_too() {
    let mut quiet = start(KEYS_MAX);
    let first = quiet.answer_to(request("k", "1"));
    let (repeated, id) = told(&first);
    assert!(!repeated);
    let second = quiet.answer_to(request("k", "1"));
    assert_eq!(told(&second), (true, id));
    let mut quiet = restart(quiet);
    let third = quiet.answer_to(request("k", "1"));
    assert_eq!(told(&third), (true, id));
    assert_eq!((items(&quiet), quiet.engine.state.keys.len()), (1, 1));
}

#[test]
fn a_key_with_another_body_is_refused_and_a_refused_request_leaves_no_key() {
    let mut quiet = start(KEYS_MAX);
    told(&quiet.answer_to(request("k", "1")));
    assert_eq!(refused(&quiet.answer_to(request("k", "2"))), RefusalKind::KeyReused);
    // The item is there: the condition of its put does not hold.
    assert_eq!(refused(&quiet.answer_to(request("other", "1"))), RefusalKind::Conflict);
    assert!(!told(&quiet.answer_to(request("other", "3"))).0);
    assert_eq!((items(&quiet), quiet.engine.state.keys.len()), (2, 2));
}

#[test]
fn of_two_requests_in_one_step_the_second_is_a_repeat_and_both_wait_for_the_frame() {
    let mut quiet = start(KEYS_MAX);
    for sk in ["1", "1", "2"] {
        quiet.ask_in_the_next_step(request("k", sk));
    }
    quiet.pass_ms(1);
    assert!(quiet.take_answers().is_empty(), "nothing is durable yet");
    quiet.pass_ms(10);
    let answers = quiet.take_answers();
    let [first, second, third] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((told(first).0, told(second)), (false, (true, told(first).1)));
    assert_eq!(refused(third), RefusalKind::KeyReused);
    assert_eq!(items(&quiet), 1);
}

#[test]
fn a_key_is_forgotten_after_a_day_and_not_before() {
    let mut quiet = start(KEYS_MAX);
    let first = quiet.answer_to(request("k", "1"));
    quiet.leap_ms(KEY_LIFE_MS - HOUR_MS);
    assert_eq!(told(&quiet.answer_to(request("k", "1"))), (true, told(&first).1));
    quiet.leap_ms(HOUR_MS);
    assert_eq!(quiet.engine.state.keys.len(), 0);
    // It is carried out, so the item that is there stands in its way.
    assert_eq!(refused(&quiet.answer_to(request("k", "1"))), RefusalKind::Conflict);
    assert!(!told(&quiet.answer_to(request("k", "2"))).0);
}

#[test]
fn with_no_room_new_keys_are_refused_until_one_expires_and_none_is_forgotten() {
    let mut quiet = start(2);
    told(&quiet.answer_to(request("k1", "1")));
    quiet.leap_ms(HOUR_MS);
    told(&quiet.answer_to(request("k2", "2")));
    match quiet.answer_to(request("k3", "3")) {
        Answer::Full { retry_after_s, reason } => {
            assert_eq!((retry_after_s, reason), (RETRY_AFTER_MAX_S, KEYS_FULL));
        }
        other => panic!("there is room: {other:?}"),
    }
    assert!(told(&quiet.answer_to(request("k1", "1"))).0);
    assert!(matches!(quiet.ask_to_put("4"), Answer::Done(_)), "without a key it is taken");
    quiet.leap_ms(KEY_LIFE_MS - HOUR_MS);
    assert!(!told(&quiet.answer_to(request("k3", "3"))).0);
    assert!(told(&quiet.answer_to(request("k2", "2"))).0);
}

#[test]
fn keys_are_swept_to_the_head_of_the_journal_and_survive_the_segment_they_were_in() {
    let mut quiet = start(KEYS_MAX);
    let keys = 3 * 64 + 5;
    for key in 0..keys {
        told(&quiet.answer_to(request(&format!("k{key}"), &format!("keyed {key}"))));
    }
    let next = quiet.put_until_swept(0, 1);
    quiet.put_until_swept(next, 3);
    let oldest = quiet.engine.journal.segments().next().expect("there is one").number;
    assert!(oldest > 1, "the first segment is gone");
    let digest = quiet.engine.digest();
    let mut quiet = restart(quiet);
    let differences = digest.differences(&quiet.engine.digest());
    assert!(!differences.contains(&"keys".to_owned()), "{differences:?}");
    assert_eq!(quiet.engine.state.keys.len(), keys);
    assert!(told(&quiet.answer_to(request("k7", "keyed 7"))).0);
}

#[test]
fn keys_of_memory_are_counted() {
    let mut quiet = start(KEYS_MAX);
    assert_eq!(quiet.engine.state.keys.memory_bytes(), 0);
    let before = quiet.engine.memory_bytes();
    told(&quiet.answer_to(request("k", "1")));
    let counted = quiet.engine.state.keys.memory_bytes();
    assert!(counted > 48 && quiet.engine.memory_bytes() >= before + counted as u64);
}

fn keyed(hash: u128, expires_ms: u64) -> Keyed {
    Keyed { expires_ms, hash, body: 1, id: hash + 1 }
}

/// Spreads numbers as a hash does.
fn hash(number: u64) -> u128 {
    u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

#[test]
fn keys_are_found_until_they_are_forgotten_oldest_first() {
    let mut keys = Keys::default();
    let many = 2 * CHUNK as u64 + 10;
    (0..many).for_each(|at| keys.set(keyed(hash(at), 100 + at)));
    keys.forget(100 + many, 5);
    assert_eq!((keys.len() as u64, keys.oldest()), (many - 5, Some(&keyed(hash(5), 105))));
    keys.forget(100 + many / 2, usize::MAX);
    for at in 0..many {
        let expected = (at > many / 2).then_some(keyed(hash(at), 100 + at));
        assert_eq!(keys.get(hash(at)).copied(), expected, "{at}");
    }
    keys.forget(u64::MAX, usize::MAX);
    assert_eq!((keys.len(), keys.oldest()), (0, None));
    keys.set(keyed(1, 7));
    assert_eq!(keys.get(1), Some(&keyed(1, 7)));
}

#[test]
fn a_key_used_anew_after_its_time_is_the_newer_one_and_the_older_leaves_it_alone() {
    let mut keys = Keys::default();
    keys.set(keyed(1, 10));
    keys.set(keyed(2, 11));
    keys.set(Keyed { id: 99, ..keyed(1, 20) });
    // A sweep, or a recovery that meets an older one late.
    keys.set(keyed(1, 10));
    keys.forget(15, usize::MAX);
    assert_eq!((keys.len(), keys.get(1).map(|keyed| keyed.id)), (1, Some(99)));
    assert_eq!(keys.get(2), None);
}

#[test]
fn keys_that_a_recovery_meets_in_disorder_expire_in_order() {
    let mut keys = Keys::default();
    [50, 10, 40, 20, 5].into_iter().for_each(|ms| keys.set(keyed(hash(ms), ms)));
    keys.sort(5);
    let order: Vec<u64> = keys.from(0).map(|(_, keyed)| keyed.expires_ms).collect();
    assert_eq!(order, [10, 20, 40, 50]);
    // In order already, a life that begins later has none that is over.
    keys.sort(15);
    assert_eq!(keys.len(), 3);
    keys.forget(25, usize::MAX);
    assert_eq!((keys.get(hash(20)), keys.get(hash(40)).is_some()), (None, true));
}

#[test]
fn the_hash_of_a_key_is_of_its_scope_and_its_route_and_is_the_same_for_ever() {
    let arguments = Doc::text("x");
    let of = |scope: &str, route, key: &str| {
        RequestKey::of(scope.as_bytes(), route, key.as_bytes(), &arguments)
    };
    let key = of("", "put", "cart-4711");
    assert_eq!(key.hash, 0xe3e1_e878_2771_a37f_01d0_9d17_cc57_12ab);
    let others =
        [of("t", "put", "cart-4711"), of("", "get", "cart-4711"), of("", "putc", "art-4711")];
    assert!(others.iter().all(|other| other.hash != key.hash && other.body == key.body));
    let other_body = RequestKey::of(b"", "put", b"cart-4711", &Doc::text("y"));
    assert!(other_body.hash == key.hash && other_body.body != key.body);
}
