//! What calls, look-ups and their ends mean for messages and for the pipe.

use wims_stack::{
    Action, ApiRef, ApiTarget, FunctionRef, MailLimit, Pipe, PipeSource, PipeTarget, Queue,
    QueueRef, Redrive, Stack, Subscription, TableRef, TargetRef, Template, Topic, TopicRef, Update,
    Write,
};

use super::*;
use crate::functions::{Function, Functions, MailText};
use crate::quiet::{self, Quiet};

fn answered(status: u16) -> CallReply {
    CallReply::Answered { status, retry_after_ms: Some(2_000), body: None }
}

#[test]
fn every_status_of_the_payments_contract_means_what_the_contract_says() {
    let of = |status| Ended::of_call(answered(status));
    for status in [200, 201, 204] {
        assert_eq!(of(status), Ended::Settled(CallOutcome::Succeeded));
    }
    assert!(matches!(of(402), Ended::Settled(CallOutcome::Declined(_))));
    for status in [408, 409, 425, 429, 503] {
        assert!(matches!(of(status), Ended::Deferred { retry_after_ms: Some(2_000), .. }));
    }
    for status in [401, 403, 404, 405] {
        assert!(matches!(of(status), Ended::Misdirected(_)));
    }
    for status in [400, 410, 422] {
        assert!(matches!(of(status), Ended::Refused(_)));
    }
    for status in [500, 502, 504, 302] {
        assert!(matches!(of(status), Ended::Unknown(_)));
    }
    let lost = Ended::of_call(CallReply::Lost("timeout".into()));
    assert_eq!(lost, Ended::Unknown(Failure::new(NO_ANSWER, "timeout")));
    let unsent = Ended::of_call(CallReply::NotSent("refused".into()));
    assert_eq!(unsent, Ended::NotSent);
    assert_eq!(Ended::of_look_up(answered(404)), Ended::LookedUp(CallOutcome::NotFound));
    assert!(matches!(Ended::of_look_up(answered(500)), Ended::LookUpFailed { .. }));
    for status in [401, 403] {
        assert!(matches!(Ended::of_look_up(answered(status)), Ended::LookUpMisdirected(_)));
    }
}

/// A quiet stack whose queue `noted` is called for at an API: messages are the `sk` of an item.
fn called_for(attempts_max: u32) -> Stack {
    let (dead_letters, alarm) = (QueueRef::new("dead"), TopicRef::new("team"));
    let message = Template::path("$.detail.sk");
    let mut stack = quiet::stack(TargetRef::Queue(QueueRef::new("noted"), message));
    let noted = stack.queues.iter_mut().find(|queue| queue.name.name() == "noted");
    noted.expect("it is declared").redrive =
        Some(Redrive { dead_letters, receive_count_max: attempts_max });
    stack.queues.push(Queue {
        name: QueueRef::new("mails"),
        visibility_timeout_ms: 30_000,
        redrive: None,
        alarm: None,
    });
    stack.topics.push(Topic {
        name: alarm.clone(),
        subscriptions: vec![Subscription {
            queue: QueueRef::new("mails"),
            email: "team@localhost".into(),
            mail: FunctionRef::new("mail"),
            limit: MailLimit::Digest { window_ms: 60_000 },
        }],
        notices: Vec::new(),
    });
    stack.apis.push(ApiRef::new("api"));
    stack.pipes.push(Pipe {
        name: "calls".into(),
        source: PipeSource::Queue(QueueRef::new("noted")),
        target: PipeTarget::Api(ApiTarget {
            api: ApiRef::new("api"),
            path: "/".into(),
            idempotent: false,
            table: TableRef::new("T"),
            prepare: FunctionRef::new("prepare"),
            outcome: FunctionRef::new("outcome"),
            rate_per_second: 1_000.0,
            burst: 100,
            in_flight_max: 100,
            timeout_ms: 1_000,
            alarm,
        }),
    });
    stack
}

fn functions() -> Functions {
    quiet::functions()
        .with("prepare", Function::Prepare(prepare))
        .with("outcome", Function::Outcome(outcome))
        .with("mail", Function::Mail(mail))
}

fn mail(_: &[Doc]) -> MailText {
    MailText { subject: "paused".into(), text: String::new(), html: None }
}

fn becomes(sk: &str, state: &str) -> Write {
    let action = Action::Update(vec![Update::set_str("state", state)]);
    Write { pk: "a".into(), sk: sk.into(), condition: None, action }
}

fn prepare(input: &DeliveryInput<'_>) -> Delivery {
    let sk = input.message.view().as_str().expect("a text");
    let state = input.reads.get("a", sk).and_then(|item| item.str("state"));
    let key = sk.to_owned();
    match state {
        Some("NEW") => {
            Delivery::Call { writes: vec![becomes(sk, "CALLED")], key, body: Doc::object(&[]) }
        }
        Some("CALLED" | "UNKNOWN") => Delivery::LookUp { key, writes: Vec::new() },
        _ => Delivery::Drop,
    }
}

fn outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
    let sk = input.message.view().as_str().expect("a text");
    let state = match outcome {
        CallOutcome::Succeeded if sk == "poison" => panic!("poison"),
        CallOutcome::Succeeded => "DONE",
        CallOutcome::Unknown(_) => "UNKNOWN",
        CallOutcome::NotSent | CallOutcome::Deferred | CallOutcome::NotFound => "NEW",
        CallOutcome::Declined(_) | CallOutcome::Refused(_) | CallOutcome::Exhausted(_) => "FAILED",
    };
    vec![becomes(sk, state)]
}

/// Starts with a new item for each of these, and lets their calls begin.
fn begun(attempts_max: u32, items: &[&str]) -> Quiet {
    let mut quiet = Quiet::start(&called_for(attempts_max), &functions());
    items.iter().for_each(|sk| quiet.put(sk));
    quiet.pass_ms(1_000);
    quiet
}

/// Answers what is under way; how many calls, and how many look-ups.
fn answer(quiet: &mut Quiet, to_call: u16, to_look_up: u16) -> (usize, usize) {
    let under_way: Vec<_> = quiet.engine.api_pipes[0]
        .in_flight
        .iter()
        .map(|(id, call)| (CallId { pipe: 0, message: *id, number: call.number }, call.look_up))
        .collect();
    for (call, look_up) in &under_way {
        let status = if *look_up { to_look_up } else { to_call };
        let reply = CallReply::Answered { status, retry_after_ms: None, body: None };
        quiet.engine.called(*call, reply);
    }
    let look_ups = under_way.iter().filter(|(_, look_up)| *look_up).count();
    (under_way.len() - look_ups, look_ups)
}

#[test]
fn an_outcome_the_business_fails_on_is_a_dead_letter_and_its_call_is_never_forgotten() {
    let mut quiet = begun(10, &["good", "poison"]);
    assert_eq!(answer(&mut quiet, 200, 404), (2, 0));
    quiet.pass_ms(10);
    assert_eq!(quiet.item("good").str("state"), Some("DONE"));
    assert_eq!(quiet.item("poison").str("state"), Some("CALLED"), "a redrive looks it up");
    assert_eq!(quiet.messages("noted").len(), 0);
    let letters = quiet.messages("dead");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].body.view().as_str(), Some("poison"));
    let attributes = letters[0].attributes.as_ref().expect("they say why");
    let reason = attributes.str("ERROR_MESSAGE");
    assert_eq!(reason, Some("the outcome function panicked on Succeeded"));
    assert_eq!(attributes.str("ERROR_CODE"), Some("Lambda.Unknown"));
    assert_eq!(attributes.str("SOURCE_QUEUE"), Some("noted"));
}

#[test]
fn look_ups_do_not_end_probing_and_the_team_is_told_once() {
    let mut quiet = begun(10, &["1", "2", "3", "4", "5"]);
    assert_eq!(answer(&mut quiet, 500, 404), (5, 0));
    quiet.pass_ms(10);
    assert_eq!(quiet.messages("mails").len(), 1);
    quiet.engine.api_pipes[0].pace.refused(0);
    let fallen = quiet.engine.api_pipes[0].pace.rate();
    quiet.put("6");
    let (mut calls, mut look_ups) = (0, 0);
    // The pause ends within 30 s, the next one lasts at least 45 s.
    for _ in 0..400 {
        quiet.pass_ms(100);
        let (called, looked_up) = answer(&mut quiet, 500, 404);
        (calls, look_ups) = (calls + called, look_ups + looked_up);
    }
    assert_eq!(calls, 1, "one message finds out for all");
    assert!(look_ups <= 5);
    let pipe = &quiet.engine.api_pipes[0];
    assert_eq!((pipe.unknowns, pipe.pace.rate()), (PROBE_AFTER + 1, fallen));
    let attempts: u32 = quiet.messages("noted").iter().map(|message| message.attempts).sum();
    assert_eq!(attempts, 6);
    assert_eq!(quiet.messages("mails").len(), 1);
}

/// Ends all calls under way like this.
fn end_all(quiet: &mut Quiet, reply: &CallReply) {
    let calls = &quiet.engine.api_pipes[0].in_flight;
    let calls =
        calls.iter().map(|(id, call)| CallId { pipe: 0, message: *id, number: call.number });
    let calls: Vec<_> = calls.collect();
    assert!(!calls.is_empty(), "a call is under way");
    calls.into_iter().for_each(|call| quiet.engine.called(call, reply.clone()));
}

#[test]
fn any_answer_that_is_no_unknown_outcome_ends_the_row_and_no_connection_does_not() {
    let unknown = CallReply::Answered { status: 500, retry_after_ms: None, body: None };
    for status in [200, 402, 408, 409, 422, 425, 429, 503] {
        let mut quiet = begun(10, &["1", "2", "3", "4"]);
        end_all(&mut quiet, &unknown);
        quiet.put("5");
        quiet.pass_ms(10);
        end_all(&mut quiet, &answered(status));
        assert_eq!(quiet.engine.api_pipes[0].unknowns, 0, "after {status}");
        // The deferred one is called again, once its pause has passed.
        quiet.put("6");
        quiet.pass_ms(2_100);
        end_all(&mut quiet, &unknown);
        assert!(quiet.messages("mails").is_empty(), "after {status} they are not five in a row");
    }
    let mut quiet = begun(10, &["1", "2", "3", "4"]);
    end_all(&mut quiet, &unknown);
    quiet.put("5");
    quiet.pass_ms(10);
    end_all(&mut quiet, &CallReply::NotSent("no connection".into()));
    assert_eq!(quiet.engine.api_pipes[0].unknowns, 4);
    quiet.pass_ms(1_100);
    end_all(&mut quiet, &unknown);
    assert_eq!(quiet.messages("mails").len(), 1, "five in a row");
}

#[test]
fn a_deferral_ends_probing_and_is_waited_for() {
    let mut quiet = begun(10, &["1", "2", "3", "4", "5"]);
    assert_eq!(answer(&mut quiet, 500, 404), (5, 0));
    assert_eq!(quiet.engine.api_pipes[0].unknowns, PROBE_AFTER);
    quiet.put("6");
    // The pause ends within 30 s.
    let is_deferred = |_| {
        quiet.pass_ms(100);
        answer(&mut quiet, 503, 404).0 == 1
    };
    assert!((0..400).any(is_deferred), "one message finds out for all");
    let clock_ms = quiet.engine.state.clock_ms;
    let pipe = &quiet.engine.api_pipes[0];
    assert_eq!((pipe.unknowns, pipe.paused_until_ms), (0, clock_ms + DEFERRED_WAIT_MS));
}

#[test]
fn a_misdirected_answer_ends_the_row_and_the_pipe_stays_paused() {
    let mut quiet = begun(10, &["1", "2", "3", "4"]);
    end_all(&mut quiet, &answered(500));
    quiet.put("5");
    quiet.pass_ms(10);
    end_all(&mut quiet, &answered(404));
    let pipe = &quiet.engine.api_pipes[0];
    assert_eq!((pipe.unknowns, pipe.misdirected), (0, true));
    assert!(pipe.paused_until_ms > quiet.engine.state.clock_ms);
}

#[test]
fn an_unknown_outcome_is_looked_up_before_anything_is_tried_again() {
    let mut quiet = begun(10, &["1"]);
    assert_eq!(answer(&mut quiet, 500, 404), (1, 0));
    quiet.pass_ms(UNKNOWN_WAIT_MS + 100);
    assert_eq!(answer(&mut quiet, 200, 404), (0, 1));
    quiet.pass_ms(100);
    assert_eq!(answer(&mut quiet, 200, 404), (1, 0));
    assert_eq!(quiet.item("1").str("state"), Some("DONE"));
    assert_eq!(quiet.engine.api_pipes[0].unknowns, 0);
}

#[test]
fn a_look_up_with_wrong_credentials_pauses_the_pipe_and_the_team_is_told_once() {
    let mut quiet = begun(10, &["1"]);
    answer(&mut quiet, 500, 401);
    quiet.pass_ms(UNKNOWN_WAIT_MS + 100);
    assert_eq!(answer(&mut quiet, 500, 401), (0, 1));
    quiet.pass_ms(MISDIRECTED_WAIT_MS - 100);
    assert_eq!(quiet.engine.api_pipes[0].in_flight(), 0, "it is paused");
    quiet.pass_ms(200);
    assert_eq!(answer(&mut quiet, 500, 401), (0, 1));
    assert_eq!(quiet.messages("mails").len(), 1);
    assert_eq!(quiet.messages("noted")[0].attempts, 1, "a look-up uses none");
}

#[test]
fn where_calls_are_idempotent_402_and_an_unknown_key_are_refusals_and_nothing_else_differs() {
    let declined = Ended::of_call(answered(402));
    assert!(matches!(&declined, Ended::Settled(CallOutcome::Declined(_))), "{declined:?}");
    for status in [402, 404] {
        let refused = Ended::of_idempotent_call(answered(status));
        let code = status.to_string();
        assert!(matches!(&refused, Ended::Refused(told) if told.code == code), "{refused:?}");
    }
    for status in [200, 401, 409, 422, 429, 500, 503] {
        let ended = Ended::of_idempotent_call(answered(status));
        assert_eq!(ended, Ended::of_call(answered(status)), "{status}");
    }
}

#[test]
fn a_dead_letter_tells_all_attempts() {
    let mut quiet = begun(2, &["1"]);
    answer(&mut quiet, 500, 404);
    quiet.pass_ms(UNKNOWN_WAIT_MS + 100);
    answer(&mut quiet, 500, 404);
    quiet.pass_ms(100);
    assert_eq!(answer(&mut quiet, 500, 404), (1, 0));
    let letters = quiet.messages("dead");
    let attributes = letters[0].attributes.as_ref().expect("they say why");
    assert_eq!(attributes.int("RETRY_ATTEMPTS"), Some(2));
    assert_eq!(attributes.str("ERROR_CODE"), Some("500"));
    assert_eq!(attributes.str("TARGET_ARN"), Some("api/api"));
    let condition = attributes.str("EXHAUSTED_RETRY_CONDITION");
    assert_eq!(condition, Some("MaximumRetryAttempts"));
    assert_eq!(quiet.item("1").str("state"), Some("FAILED"));
}
