//! Cycles of a stack: a rule hears a change of a table and starts what changes that table again.
//!
//! Promise: every cycle gets a finding that names its way; a note when the declaration says why
//! it ends, or when that is up to the functions behind a queue, otherwise an error.
//!
//! It deliberately follows one table, one rule and one workflow, with the guarded item as the one
//! whose change started it; two workflows that undo each other's work are not found.

use std::fmt;

use serde_json::Value;

use super::{Checker, Published, states};
use crate::doc::Doc;
use crate::pattern::CompiledPattern;
use crate::stack::{
    Becomes, Pipe, PipeSource, PipeTarget, QueueRef, Rule, StateKind, TableRef, TargetRef, Task,
    Transact, WorkflowRef,
};

/// Where the new image of a change lies in its event.
const NEW_IMAGE: [&str; 3] = ["detail", "data", "NewImage"];
/// Where the partition key of a change lies in its event, as JSON pointers.
pub(super) const CHANGED_KEYS: [&str; 2] = ["/detail/data/pk", "/detail/data/NewImage/pk"];

/// A way from a table through its stream, a pipe and a bus to a rule that may hear its changes.
struct Way<'a> {
    table: &'a TableRef,
    pipe: &'a Pipe,
    rule: &'a Rule,
    pattern: CompiledPattern,
    /// Whether the rule hears change events only, none of the others that follow from a change.
    hears_changes_only: bool,
}

/// Cycles through a table.
impl<'a> Checker<'a> {
    /// A finding for every cycle.
    pub(super) fn cycles(&mut self) {
        for way in self.ways() {
            for target in &way.rule.targets {
                match &target.to {
                    TargetRef::Workflow(workflow) => self.cycles_of_workflow(&way, workflow),
                    TargetRef::Queue(queue, _) => self.cycles_of_queue(&way, "", queue),
                    TargetRef::Topic(_) | TargetRef::Log(_) => {}
                }
            }
        }
    }

    fn ways(&self) -> Vec<Way<'a>> {
        let stack = self.stack;
        let mut ways = Vec::new();
        for pipe in &stack.pipes {
            let (PipeSource::Stream { table, .. }, PipeTarget::Bus { bus, enrichment }) =
                (&pipe.source, &pipe.target)
            else {
                continue;
            };
            let events = self.events_of(enrichment);
            let rules = stack.rules.iter().filter(|rule| rule.bus == *bus);
            ways.extend(rules.filter_map(|rule| way(table, pipe, rule, &events)));
        }
        ways
    }

    fn cycles_of_workflow(&mut self, way: &Way<'_>, name: &WorkflowRef) {
        let stack = self.stack;
        let Some(workflow) = stack.workflows.iter().find(|workflow| workflow.name == *name) else {
            return;
        };
        for state in states(&workflow.machine) {
            let step = format!(" -> workflow {} (state {})", name.name(), state.name);
            match &state.kind {
                StateKind::Task { task: Task::Transact(transact), .. } => {
                    self.cycle_of_transact(way, &step, transact);
                }
                StateKind::Task { task: Task::SendMessage { queue, .. }, .. } => {
                    self.cycles_of_queue(way, &step, queue);
                }
                StateKind::Parallel { .. }
                | StateKind::Wait { .. }
                | StateKind::Succeed
                | StateKind::Fail { .. } => {}
            }
        }
    }

    fn cycle_of_transact(&mut self, way: &Way<'_>, step: &str, transact: &Transact) {
        if transact.table != *way.table {
            return;
        }
        let cycle = format!("cycle {way}{step} -> table {}", way.table.name());
        let at = format!("rule/{}", way.rule.name);
        match way.end(transact) {
            Some(why) => self.note(&at, format!("{cycle} ends: {why}")),
            None => {
                let after = after(transact);
                let reason = format!("guard and pattern may both still hold once {after}");
                self.error(&at, format!("{cycle} may go on for ever: {reason}"));
            }
        }
    }

    fn cycles_of_queue(&mut self, way: &Way<'_>, step: &str, queue: &QueueRef) {
        for pipe in &self.stack.pipes {
            let (PipeSource::Queue(source), PipeTarget::Api(api)) = (&pipe.source, &pipe.target)
            else {
                continue;
            };
            if source != queue || api.table != *way.table {
                continue;
            }
            let through = format!("queue {} -> pipe {}", queue.name(), pipe.name);
            let back = format!("api {} -> table {}", api.api.name(), api.table.name());
            let (prepare, outcome) = (api.prepare.name(), api.outcome.name());
            let end = format!("only if {prepare} and {outcome} guard against a second round");
            let cycle = format!("cycle {way}{step} -> {through} -> {back}");
            let at = format!("rule/{}", way.rule.name);
            self.note(&at, format!("{cycle} passes through a queue and ends {end}"));
        }
    }
}

fn way<'a>(
    table: &'a TableRef,
    pipe: &'a Pipe,
    rule: &'a Rule,
    events: &[&Published],
) -> Option<Way<'a>> {
    // A pattern that does not compile has its own finding.
    let pattern = rule.pattern.compile().ok()?;
    let heard: Vec<_> = events.iter().filter(|event| may_match(rule, &pattern, event)).collect();
    let is_deaf = heard.is_empty() && !events.is_empty();
    if is_deaf || pattern.contradiction().is_some() {
        return None;
    }
    let hears_changes_only = !heard.is_empty() && heard.iter().all(|event| event.about.is_some());
    Some(Way { table, pipe, rule, pattern, hears_changes_only })
}

impl Way<'_> {
    /// Why going round through this transaction ends, if the declaration tells.
    fn end(&self, transact: &Transact) -> Option<String> {
        let Becomes { attribute, values, lower } = &transact.becomes;
        if *lower {
            let least = transact.guard.least(attribute)?;
            let bound = format!("the guard does not hold below {least}");
            return Some(format!("each run that writes the item lowers {attribute}, and {bound}"));
        }
        if values.is_empty() {
            return None;
        }
        if transact.guard.is_falsified_by(attribute, values) {
            return Some(format!("the guard does not hold once {}", after(transact)));
        }
        let is_excluded =
            self.hears_changes_only && values.iter().all(|v| self.excludes(attribute, v));
        is_excluded.then(|| format!("the pattern does not match once {}", after(transact)))
    }

    fn excludes(&self, attribute: &str, value: &Doc) -> bool {
        let [detail, data, image] = NEW_IMAGE;
        let path = [detail, data, image, attribute];
        value.view().as_str().is_some_and(|text| self.pattern.excludes(&path, text))
    }
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, pipe, rule) = (self.table.name(), &self.pipe.name, &self.rule.name);
        write!(f, "table {table} -> pipe {pipe} -> rule {rule}")
    }
}

/// Whether the rule may want such an event; `false` only when it certainly does not.
pub(super) fn may_match(rule: &Rule, pattern: &CompiledPattern, event: &Published) -> bool {
    let is_excluded = pattern.excludes(&["source"], &event.source)
        || pattern.excludes(&["detail-type"], &event.detail_type);
    let about = event.about.as_deref();
    !is_excluded && about.is_none_or(|prefix| key_may_start_with(&rule.pattern.0, prefix))
}

fn key_may_start_with(pattern: &Value, start: &str) -> bool {
    CHANGED_KEYS.iter().filter_map(|key| pattern.pointer(key)?.as_array()).all(|tests| {
        tests.iter().any(|test| match (test.as_str(), test["prefix"].as_str()) {
            (Some(exact), _) => exact.starts_with(start),
            (None, Some(prefix)) => prefix.starts_with(start) || start.starts_with(prefix),
            (None, None) => true,
        })
    })
}

/// What holds after a transaction, in words.
fn after(transact: &Transact) -> String {
    if transact.becomes.lower {
        return format!("{} is lower", transact.becomes.attribute);
    }
    let values = transact.becomes.values.iter();
    let values: Vec<String> = values.map(|v| crate::json::to_string(v.view().into())).collect();
    let values = if values.is_empty() { "anything".into() } else { values.join(" or ") };
    format!("{} is {values}", transact.becomes.attribute)
}
