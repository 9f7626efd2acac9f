//! Dead letters: what a message among them says about itself, and its way back.
//!
//! Promise: whoever buries something says why in the same words, EventBridge's attributes; rules
//! and targets are named as everywhere here, by kind and name, where it has ARNs. What a letter
//! says is enough to find the one who could not take it. It deliberately sends nothing.

use wims_stack::{Doc, Field};

use crate::plan::{Plan, RulePlan, TargetPlan};

/// The rule whose target could not take it, e.g. `rule/r`.
const RULE: &str = "RULE_ARN";
/// Who could not take it, e.g. `workflow/w`.
const TARGET: &str = "TARGET_ARN";
/// What went wrong, in a word.
const ERROR_CODE: &str = "ERROR_CODE";
/// What went wrong, for people.
pub(crate) const ERROR_MESSAGE: &str = "ERROR_MESSAGE";
/// Why it was not tried again.
const EXHAUSTED_RETRY_CONDITION: &str = "EXHAUSTED_RETRY_CONDITION";
/// How often it was tried again, or how many attempts it used.
const RETRY_ATTEMPTS: &str = "RETRY_ATTEMPTS";
/// The queue it came from, where a redrive sends it.
const SOURCE_QUEUE: &str = "SOURCE_QUEUE";
/// The one condition there is here: nothing ages.
const ALL_RETRIES_USED: &str = "MaximumRetryAttempts";

/// The code of a function that panicked.
pub(crate) const PANICKED: &str = "Lambda.Unknown";
/// The code of writes that make no sense.
pub(crate) const INVALID_WRITES: &str = "DynamoDB.ValidationException";

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// In a word: the name of an error, an HTTP status.
    pub code: String,
    /// For people.
    pub message: String,
    /// How often it was tried again before, where something counts that.
    pub retries: Option<u32>,
    /// Whether there would have been another try if those had not been all.
    pub is_exhausted: bool,
}

impl Failure {
    /// A failure of something that is not tried again.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Failure {
        let (code, message) = (code.into(), message.into());
        Failure { code, message, retries: None, is_exhausted: false }
    }

    /// The same, after so many tries more.
    pub fn after(self, retries: u32) -> Failure {
        Failure { retries: Some(retries), ..self }
    }

    /// The same, when it would have been tried again if that had not been done so often.
    pub fn exhausted(self, is_exhausted: bool) -> Failure {
        Failure { is_exhausted, ..self }
    }
}

/// Where a dead letter comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin<'a> {
    /// Name of the rule whose target could not take it.
    pub rule: Option<&'a str>,
    /// Kind and name of who could not take it.
    pub target: Option<&'a str>,
    /// Name of the queue it was in.
    pub queue: Option<&'a str>,
}

impl Origin<'_> {
    /// The attributes of a dead letter from here, for this reason.
    pub fn attributes(&self, failure: &Failure) -> Doc {
        let rule = self.rule.map(|rule| format!("rule/{rule}"));
        let mut fields = vec![
            (ERROR_CODE, Field::Str(&failure.code)),
            (ERROR_MESSAGE, Field::Str(&failure.message)),
        ];
        let texts = [
            (RULE, rule.as_deref()),
            (TARGET, self.target),
            (SOURCE_QUEUE, self.queue),
            (EXHAUSTED_RETRY_CONDITION, failure.is_exhausted.then_some(ALL_RETRIES_USED)),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, Field::Str(text?))));
        fields.extend(texts);
        fields.extend(failure.retries.map(|retries| (RETRY_ATTEMPTS, Field::Int(retries.into()))));
        Doc::object(&fields)
    }
}

/// Where a dead letter goes back to.
pub(crate) enum Way<'a> {
    /// Number of the queue it came from.
    Queue(u16),
    /// The target of a rule that could not take it.
    Rule(&'a RulePlan, &'a TargetPlan),
}

impl Way<'_> {
    /// The way back of a letter in this queue, unless the stack no longer has it. Letters of
    /// former versions name a rule alone: its first target that has this queue is meant.
    pub fn of<'a>(plan: &'a Plan, dead_letters: u16, attributes: &Doc) -> Option<Way<'a>> {
        if let Some(source) = attributes.str(SOURCE_QUEUE) {
            let queue = plan.queues.iter().find(|(_, queue)| queue.name == source);
            return queue.map(|(number, _)| Way::Queue(*number));
        }
        let rule = attributes.str(RULE)?;
        let rule = rule.strip_prefix("rule/").unwrap_or(rule);
        let rule = plan.rules.iter().find(|declared| declared.name == rule)?;
        let is_meant = |target: &&TargetPlan| match attributes.str(TARGET) {
            Some(name) => target.name == name,
            None => target.dead_letters == dead_letters,
        };
        Some(Way::Rule(rule, rule.targets.iter().find(is_meant)?))
    }
}

/// What others say, as an event, a log or a dead letter may have it: mail servers and APIs like to
/// repeat whom something is for.
pub(crate) fn without_addresses(told: &str) -> String {
    let words = told.split_whitespace();
    let words = words.map(|word| if word.contains('@') { "(an address)" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_what_applies_and_nothing_else() {
        let failure = Failure::new("422", "the API answered 422");
        let bare = Origin::default().attributes(&failure);
        let same = [("ERROR_CODE", "422"), ("ERROR_MESSAGE", "the API answered 422")];
        assert_eq!(bare, Doc::object(&same.map(|(name, text)| (name, Field::Str(text)))));
        let origin = Origin { rule: Some("r"), target: Some("workflow/w"), queue: Some("q") };
        let full = origin.attributes(&failure.after(3).exhausted(true));
        for (name, text) in same.into_iter().chain([
            ("RULE_ARN", "rule/r"),
            ("TARGET_ARN", "workflow/w"),
            ("SOURCE_QUEUE", "q"),
            ("EXHAUSTED_RETRY_CONDITION", "MaximumRetryAttempts"),
        ]) {
            assert_eq!(full.str(name), Some(text), "{name}");
        }
        assert_eq!(full.int("RETRY_ATTEMPTS"), Some(3));
    }

    #[test]
    fn nobody_is_told_an_address() {
        let reason = "permanent error (550): 5.1.1 <ada@example.com>: no such user";
        let told = "permanent error (550): 5.1.1 (an address) no such user";
        assert_eq!(without_addresses(reason), told);
        assert_eq!(without_addresses("no\r\nada@example.com\there"), "no (an address) here");
    }
}
