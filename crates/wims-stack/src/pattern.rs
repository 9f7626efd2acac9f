//! Event patterns: which events a rule wants, in the language of EventBridge's classic rules.
//!
//! Promise: a pattern is compiled once; then it decides as AWS does, refuses with AWS's words,
//! reads only the paths it names and allocates nothing unless a list lies on one of them. The
//! cost of an event in a [`RuleIndex`] grows with the rules that could match, not with all rules.
//!
//! It deliberately has only these operators yet: exact, `prefix`, `numeric`, `exists` and
//! `anything-but` of values; the others are refused by name. Until `cidr` is among them, strings
//! that look like IP addresses are compared as text. Numbers are exact decimals, so a number that
//! no decimal of 28 digits holds is refused in a pattern. A name written twice in one JSON object
//! is not seen here: parsed JSON and documents hold each name once.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::json;
use crate::node::{EventView, Node, NodeKind, Tree};

mod index;
mod paths;

pub use index::RuleIndex;
use paths::{Paths, Place, Seen};

/// Fewer than 16 significant digits survive a double, so such numbers need no closer look.
const MANTISSA_SURELY_DOUBLE_BELOW: u128 = 1_000_000_000_000_000;

/// An event pattern as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(pub Value);

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// AWS refuses it too; the reason in AWS's words.
    #[error("Event pattern is not valid. Reason: {0}")]
    Invalid(String),
    /// AWS knows the operator, this version does not.
    #[error("event pattern operator `{0}` is not supported yet")]
    NotYet(String),
}

/// An event pattern ready to match.
#[derive(Clone, Debug)]
pub struct CompiledPattern {
    /// Ascending by name: AWS chooses list elements in this order, `exists: false` depends on it.
    fields: Vec<Field>,
    /// The fields, shallow first: source and detail type are the cheapest reasons to say no.
    order: Vec<usize>,
    /// For an event that meets this pattern alone, and where its fields end there.
    paths: Paths,
    ends: Vec<usize>,
}

impl Pattern {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// When AWS would refuse it, or when it uses an operator that is not supported yet.
    pub fn compile(&self) -> Result<CompiledPattern, PatternError> {
        let Value::Object(root) = &self.0 else { return Err(invalid("Filter is not an object")) };
        let mut fields = BTreeMap::new();
        parse_object(root, None, &mut fields)?;
        Ok(CompiledPattern::new(fields))
    }
}

impl CompiledPattern {
    fn new(fields: BTreeMap<String, Vec<Matcher>>) -> CompiledPattern {
        let fields: Vec<Field> = fields
            .into_iter()
            .map(|(name, any_of)| Field { name: FieldName::new(name), any_of })
            .collect();
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_by_key(|&index| fields[index].name.depth());
        let mut paths = Paths::default();
        let ends = fields.iter().map(|field| paths.add(&field.name)).collect();
        CompiledPattern { fields, order, paths, ends }
    }

    /// Whether the event matches.
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        self.holds(&self.order, &self.ends, &mut Seen::new(&self.paths, event))
    }

    /// The texts allowed at a path, when nothing else is; `None` when it is not constrained so.
    pub fn exact_strings(&self, path: &[&str]) -> Option<Vec<String>> {
        self.field(&path.join("."))?.exact_texts()
    }

    /// Whether an event with this text at the path, and nothing else there, certainly does not
    /// match. Assumes that no list and no name with a dot lies on the way to it.
    pub fn excludes(&self, path: &[&str], value: &str) -> bool {
        let path = path.join(".");
        self.fields.iter().any(|field| {
            let name = field.name.joined.as_str();
            if name == path {
                return !field.accepts(NodeKind::Str(value));
            }
            // A text has no fields below it, and what lies above it is a map: both are absent.
            (is_below(name, &path) || is_below(&path, name)) && !field.accepts_absence()
        })
    }

    /// Why the pattern can never match any event, if so.
    ///
    /// Only what is asked of the envelope can contradict itself: below `detail`, every field can
    /// be satisfied alone (the parser refuses empty numeric ranges), and any fields together; even
    /// `exists: false` and a field below it are, by a map, because only leaves exist.
    pub fn contradiction(&self) -> Option<String> {
        self.fields.iter().find_map(Field::contradiction)
    }

    fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.joined == name)
    }
}

/// What must hold of one field: at least one matcher accepts it.
#[derive(Clone, Debug)]
struct Field {
    name: FieldName,
    any_of: Vec<Matcher>,
}

/// One operator with its operand.
#[derive(Clone, Debug)]
enum Matcher {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(String),
    Prefix(String),
    Numeric(Range),
    Exists,
    Absent,
    AnythingButTexts(Vec<String>),
    AnythingButNumbers(Vec<Decimal>),
}

/// Numbers between bounds; without one it is open-ended there.
#[derive(Clone, Copy, Debug)]
struct Range {
    bottom: Option<Bound>,
    top: Option<Bound>,
}

/// A bound, itself outside of the range when it is open.
#[derive(Clone, Copy, Debug)]
struct Bound {
    number: Decimal,
    open: bool,
}

impl Field {
    fn accepts(&self, value: NodeKind<'_>) -> bool {
        self.any_of.iter().any(|matcher| matcher.accepts(value))
    }

    fn accepts_absence(&self) -> bool {
        self.any_of.iter().any(|matcher| matches!(matcher, Matcher::Absent))
    }

    fn exact_texts(&self) -> Option<Vec<String>> {
        let text = |matcher: &Matcher| {
            if let Matcher::Text(text) = matcher { Some(text.clone()) } else { None }
        };
        self.any_of.iter().map(text).collect()
    }

    fn contradiction(&self) -> Option<String> {
        let (first, name) = (self.name.part(0, 0), self.name.joined.as_str());
        if first == "detail" {
            return None;
        }
        if matches!(name, "source" | "detail-type") {
            let is_never = self.any_of.iter().all(Matcher::accepts_no_text);
            return is_never.then(|| format!("`{name}` is always a text, and none is accepted"));
        }
        let any = EventView { source: "", detail_type: "", detail: Node::Str("") };
        let fixed = if name == first { any.field(first) } else { None };
        match fixed {
            Some(node) if self.accepts(node.kind()) => None,
            Some(node) => Some(format!("`{name}` is always {}", json::to_string(node))),
            None if self.accepts_absence() => None,
            None => Some(format!("no event has a field `{name}`")),
        }
    }
}

impl Matcher {
    fn accepts(&self, value: NodeKind<'_>) -> bool {
        match self {
            Matcher::Null => value == NodeKind::Null,
            Matcher::Bool(expected) => value == NodeKind::Bool(*expected),
            Matcher::Number(expected) => value == NodeKind::Number(*expected),
            Matcher::Text(expected) => value == NodeKind::Str(expected),
            Matcher::Prefix(prefix) => matches!(value, NodeKind::Str(s) if s.starts_with(prefix)),
            Matcher::Numeric(range) => matches!(value, NodeKind::Number(n) if range.holds(n)),
            Matcher::Exists => true,
            Matcher::Absent => false,
            Matcher::AnythingButTexts(texts) => {
                !matches!(value, NodeKind::Str(found) if texts.iter().any(|text| text == found))
            }
            Matcher::AnythingButNumbers(numbers) => {
                !matches!(value, NodeKind::Number(found) if numbers.contains(&found))
            }
        }
    }

    fn accepts_no_text(&self) -> bool {
        match self {
            Matcher::Null | Matcher::Bool(_) | Matcher::Number(_) | Matcher::Numeric(_) => true,
            Matcher::Absent => true,
            Matcher::Text(_) | Matcher::Prefix(_) | Matcher::Exists => false,
            Matcher::AnythingButTexts(_) | Matcher::AnythingButNumbers(_) => false,
        }
    }
}

impl Range {
    fn holds(&self, number: Decimal) -> bool {
        let is_at = |bound: Bound| number == bound.number && !bound.open;
        let is_above = |bound: Bound| number > bound.number || is_at(bound);
        let is_below = |bound: Bound| number < bound.number || is_at(bound);
        self.bottom.is_none_or(is_above) && self.top.is_none_or(is_below) && is_double(number)
    }
}

/// Whether a double can say this number; AWS compares no others by size.
fn is_double(number: Decimal) -> bool {
    if number.mantissa().unsigned_abs() < MANTISSA_SURELY_DOUBLE_BELOW {
        return true;
    }
    let double: Option<f64> = number.to_string().parse().ok();
    double.and_then(|double| double.to_string().parse::<Decimal>().ok()) == Some(number)
}

/// What plain names can say of a field.
enum Verdict {
    Holds,
    Fails,
    /// A list, or a value under joined names, needs the search.
    Unsure,
}

/// The fast way: names as they are, no lists.
impl CompiledPattern {
    /// Whether an event matches of which something may be known; `ends` says where the fields end
    /// among the steps it is known by, `order` which of them are still to be looked at.
    fn holds(&self, order: &[usize], ends: &[usize], seen: &mut Seen<'_, '_>) -> bool {
        let mut is_sure = true;
        for &index in order {
            match self.fields[index].verdict(ends[index], seen) {
                Verdict::Holds => {}
                Verdict::Fails => return false,
                Verdict::Unsure => is_sure = false,
            }
        }
        is_sure || self.search(0, seen.event(), &mut Vec::new())
    }
}

impl Field {
    /// What the field's own value says, unless a value under joined names (`{"a.b": 1}` for `a.b`)
    /// has a say as well; those are looked for only where they could change the answer.
    fn verdict(&self, end: usize, seen: &mut Seen<'_, '_>) -> Verdict {
        let leaf = match seen.at(end) {
            Place::InList => return Verdict::Unsure,
            // Only leaves exist: a map at the end of a path is nothing.
            Place::Absent | Place::At(_, NodeKind::Map) => None,
            Place::At(_, kind) => Some(kind),
        };
        let holds = leaf.map_or_else(|| self.accepts_absence(), |value| self.accepts(value));
        if holds && leaf.is_some() {
            return Verdict::Holds;
        }
        // The envelope joins no names, so there must be two below it.
        let has_another = self.name.depth() > 2
            && seen.joins(end)
            && self.name.values(seen.event(), &mut Vec::new(), |value, _| {
                leaf.is_none() || self.accepts(value)
            });
        match (has_another, holds) {
            (true, _) => Verdict::Unsure,
            (false, true) => Verdict::Holds,
            (false, false) => Verdict::Fails,
        }
    }
}

/// The general way: any value that lists or joined names offer, elements chosen consistently.
impl CompiledPattern {
    /// Whether the fields from `index` on can be satisfied given the list elements chosen so far.
    fn search<'p>(
        &'p self,
        index: usize,
        event: &EventView<'_>,
        seats: &mut Vec<Seat<'p>>,
    ) -> bool {
        let Some(field) = self.fields.get(index) else { return true };
        let chosen = seats.len();
        let (mut is_present, mut was_tried) = (false, false);
        let is_taken = field.name.values(event, seats, |value, seats| {
            is_present = true;
            // A second value that chooses no element asks the later fields the same again.
            let chooses_none = seats.len() == chosen;
            if !field.accepts(value) || (chooses_none && was_tried) {
                return false;
            }
            was_tried |= chooses_none;
            self.search(index + 1, event, seats)
        });
        is_taken || (!is_present && field.accepts_absence() && self.search(index + 1, event, seats))
    }
}

/// An element chosen from a list. Two fields of a pattern may not choose different ones.
struct Seat<'p> {
    /// Address of the list; the path tells apart lists of one document shown at two places.
    list: usize,
    path: &'p str,
    element: usize,
}

/// Name of a field: the names on its path joined with dots. AWS flattens both sides to these, so
/// `{"a.b": 1}` and `{"a": {"b": 1}}` are the same.
#[derive(Clone, Debug)]
struct FieldName {
    joined: String,
    /// Where each single name ends.
    ends: Vec<usize>,
}

impl FieldName {
    fn new(joined: String) -> FieldName {
        let dots = joined.match_indices('.').map(|(at, _)| at);
        let ends = dots.chain([joined.len()]).collect();
        FieldName { joined, ends }
    }

    fn depth(&self) -> usize {
        self.ends.len()
    }

    /// The names from `first` to `last`, joined.
    fn part(&self, first: usize, last: usize) -> &str {
        let start = if first == 0 { 0 } else { self.ends[first - 1] + 1 };
        &self.joined[start..self.ends[last]]
    }

    /// Calls `take` with every value of this name in the event that agrees with the elements
    /// chosen so far, those it comes from added to them, until one is taken.
    fn values<'p>(
        &'p self,
        event: &EventView<'_>,
        seats: &mut Vec<Seat<'p>>,
        take: impl FnMut(NodeKind<'_>, &mut Vec<Seat<'p>>) -> bool,
    ) -> bool {
        let mut seeker = Seeker { name: self, seats, take };
        event.field(self.part(0, 0)).is_some_and(|node| seeker.under(node, 1))
    }
}

/// A search for values of one field; all its methods say whether one was taken.
struct Seeker<'s, 'p, Take> {
    name: &'p FieldName,
    seats: &'s mut Vec<Seat<'p>>,
    take: Take,
}

impl<'p, Take> Seeker<'_, 'p, Take>
where
    Take: FnMut(NodeKind<'_>, &mut Vec<Seat<'p>>) -> bool,
{
    /// Looks where the first `depth` names have led.
    fn under(&mut self, node: Node<'_>, depth: usize) -> bool {
        let name = self.name;
        match node.kind() {
            NodeKind::List => self.in_list(node, depth),
            NodeKind::Map => (depth..name.depth()).any(|last| {
                let inner = node.get(name.part(depth, last));
                inner.is_some_and(|inner| self.under(inner, last + 1))
            }),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Str(_) => {
                depth == name.depth() && (self.take)(node.kind(), self.seats)
            }
        }
    }

    fn in_list(&mut self, list: Node<'_>, depth: usize) -> bool {
        let name = self.name;
        let (address, path) = (list_address(list), name.part(0, depth - 1));
        let mut element = 0;
        let outcome = list.elements(|node| {
            let seat = Seat { list: address, path, element };
            element += 1;
            // Only what has fields or elements of its own binds other fields to the same element.
            let is_taken = if matches!(node.kind(), NodeKind::List | NodeKind::Map) {
                self.in_seat(node, depth, seat)
            } else {
                self.under(node, depth)
            };
            if is_taken { Err(()) } else { Ok(()) }
        });
        outcome.is_err()
    }

    fn in_seat(&mut self, node: Node<'_>, depth: usize, seat: Seat<'p>) -> bool {
        let mut seats = self.seats.iter();
        let same_list = seats.find(|other| other.list == seat.list && other.path == seat.path);
        match same_list.map(|other| other.element) {
            Some(element) => element == seat.element && self.under(node, depth),
            None => {
                self.seats.push(seat);
                let is_taken = self.under(node, depth);
                self.seats.pop();
                is_taken
            }
        }
    }
}

fn list_address(list: Node<'_>) -> usize {
    match list {
        Node::View(view) => view.bytes().as_ptr().addr(),
        Node::Tree(Tree::Doc(doc)) => doc.bytes().as_ptr().addr(),
        Node::Str(_) | Node::Tree(Tree::Const(_) | Tree::Map(_)) => unreachable!("not a list"),
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_prefix(parent).is_some_and(|rest| rest.starts_with('.'))
}

fn invalid(reason: impl Into<String>) -> PatternError {
    PatternError::Invalid(reason.into())
}

/// Reads the fields of an object. Of two that join to the same name, the last written counts.
fn parse_object(
    object: &Map<String, Value>,
    parent: Option<&str>,
    fields: &mut BTreeMap<String, Vec<Matcher>>,
) -> Result<(), PatternError> {
    if object.is_empty() {
        return Err(invalid("Empty objects are not allowed"));
    }
    for (key, value) in object {
        if key == "$or" {
            return Err(PatternError::NotYet(key.clone()));
        }
        let name = parent.map_or_else(|| key.clone(), |parent| format!("{parent}.{key}"));
        match value {
            Value::Object(inner) => parse_object(inner, Some(&name), fields)?,
            Value::Array(values) if values.is_empty() => {
                return Err(invalid("Empty arrays are not allowed"));
            }
            Value::Array(values) => {
                fields.insert(name, values.iter().map(parse_value).collect::<Result<_, _>>()?);
            }
            _ => return Err(invalid(format!("\"{key}\" must be an object or an array"))),
        }
    }
    Ok(())
}

fn parse_value(value: &Value) -> Result<Matcher, PatternError> {
    match value {
        Value::Null => Ok(Matcher::Null),
        Value::Bool(expected) => Ok(Matcher::Bool(*expected)),
        Value::Number(expected) => Ok(Matcher::Number(exact(expected)?)),
        Value::String(expected) => Ok(Matcher::Text(expected.clone())),
        Value::Object(expression) => parse_expression(expression),
        Value::Array(_) => Err(invalid("Match value must be String, number, true, false, or null")),
    }
}

fn parse_expression(expression: &Map<String, Value>) -> Result<Matcher, PatternError> {
    let Some((operator, operand)) = expression.iter().next() else {
        return Err(invalid("Match expression name not found"));
    };
    let (matcher, when_more) = match operator.as_str() {
        "prefix" => (parse_prefix(operand)?, "Only one key allowed in match expression"),
        "exists" => (parse_exists(operand)?, "Only one key allowed in match expression"),
        "numeric" => (parse_numeric(operand)?, "Too many elements in numeric expression"),
        "anything-but" => (parse_anything_but(operand)?, "Too many elements in numeric expression"),
        "exactly" | "suffix" | "wildcard" | "equals-ignore-case" | "cidr" => {
            return Err(PatternError::NotYet(operator.clone()));
        }
        unknown => return Err(invalid(format!("Unrecognized match type {unknown}"))),
    };
    if expression.len() == 1 { Ok(matcher) } else { Err(invalid(when_more)) }
}

fn parse_prefix(operand: &Value) -> Result<Matcher, PatternError> {
    match operand {
        Value::String(prefix) => Ok(Matcher::Prefix(prefix.clone())),
        Value::Object(inner) => Err(match inner.keys().next().map(String::as_str) {
            None => invalid("Prefix expression name not found"),
            Some("equals-ignore-case") => {
                PatternError::NotYet("prefix with equals-ignore-case".into())
            }
            Some(other) => invalid(format!("Unsupported prefix pattern: {other}")),
        }),
        _ => Err(invalid("prefix match pattern must be a string")),
    }
}

fn parse_exists(operand: &Value) -> Result<Matcher, PatternError> {
    match operand {
        Value::Bool(true) => Ok(Matcher::Exists),
        Value::Bool(false) => Ok(Matcher::Absent),
        _ => Err(invalid("exists match pattern must be either true or false.")),
    }
}

fn parse_numeric(operand: &Value) -> Result<Matcher, PatternError> {
    let Value::Array(terms) = operand else {
        return Err(invalid("Value of numeric must be an array."));
    };
    let Some(Value::String(operator)) = terms.first() else {
        let member = token(terms.first());
        return Err(invalid(format!("Invalid member in numeric match: {member}")));
    };
    match operator.as_str() {
        "=" => Ok(Matcher::Number(only_number(terms, "equals")?)),
        "<" | "<=" => {
            let top = Bound { number: only_number(terms, operator)?, open: operator == "<" };
            Ok(Matcher::Numeric(Range { bottom: None, top: Some(top) }))
        }
        ">" | ">=" => parse_range(terms, operator),
        _ => Err(invalid(format!("Unrecognized numeric range operator: {operator}"))),
    }
}

/// Reads `[">", bottom]` or `[">", bottom, "<", top]`.
fn parse_range(terms: &[Value], operator: &str) -> Result<Matcher, PatternError> {
    let bottom = number_at(terms, 1, operator)?;
    let top = match terms.get(2) {
        None => None,
        Some(Value::String(second)) => Some(top_of_range(terms, second)?),
        other => return Err(invalid(format!("Bad value in numeric range: {}", token(other)))),
    };
    let bottom = Bound { number: comparable(bottom)?, open: operator == ">" };
    if top.is_some_and(|top| bottom.number >= top.number) {
        return Err(invalid("Bottom must be less than top"));
    }
    Ok(Matcher::Numeric(Range { bottom: Some(bottom), top }))
}

fn top_of_range(terms: &[Value], operator: &str) -> Result<Bound, PatternError> {
    if operator != "<" && operator != "<=" {
        return Err(invalid(format!("Bad numeric range operator: {operator}")));
    }
    let top = number_at(terms, 3, operator)?;
    if terms.len() > 4 {
        return Err(invalid("Too many terms in numeric range expression"));
    }
    Ok(Bound { number: comparable(top)?, open: operator == "<" })
}

fn only_number(terms: &[Value], label: &str) -> Result<Decimal, PatternError> {
    let number = number_at(terms, 1, label)?;
    if terms.len() > 2 {
        return Err(invalid("Too many elements in numeric expression"));
    }
    comparable(number)
}

fn number_at<'v>(terms: &'v [Value], at: usize, label: &str) -> Result<&'v Number, PatternError> {
    match terms.get(at) {
        Some(Value::Number(number)) => Ok(number),
        _ => Err(invalid(format!("Value of {label} must be numeric"))),
    }
}

/// A misplaced value as AWS's parser names it; the end of the list is a token too.
fn token(value: Option<&Value>) -> String {
    match value {
        None => "]".into(),
        Some(Value::Array(_)) => "[".into(),
        Some(Value::Object(_)) => "{".into(),
        Some(Value::String(text)) => text.clone(),
        Some(scalar) => scalar.to_string(),
    }
}

fn parse_anything_but(operand: &Value) -> Result<Matcher, PatternError> {
    match operand {
        Value::String(text) => Ok(Matcher::AnythingButTexts(vec![text.clone()])),
        Value::Number(number) => Ok(Matcher::AnythingButNumbers(vec![comparable(number)?])),
        Value::Array(values) => parse_anything_but_list(values),
        Value::Object(inner) => Err(match inner.keys().next().map(String::as_str) {
            None => invalid("Anything-But expression name not found"),
            Some(known @ ("prefix" | "suffix" | "equals-ignore-case" | "wildcard")) => {
                PatternError::NotYet(format!("anything-but with {known}"))
            }
            Some(other) => invalid(format!("Unsupported anything-but pattern: {other}")),
        }),
        Value::Null | Value::Bool(_) => {
            Err(invalid("Value of anything-but must be an array or single string/number value."))
        }
    }
}

fn parse_anything_but_list(values: &[Value]) -> Result<Matcher, PatternError> {
    let (mut texts, mut numbers) = (Vec::new(), Vec::new());
    for value in values {
        match value {
            Value::String(text) => texts.push(text.clone()),
            Value::Number(number) => numbers.push(comparable(number)?),
            _ => {
                let reason = "Inside anything but list, start|null|boolean is not supported.";
                return Err(invalid(reason));
            }
        }
    }
    match (texts.is_empty(), numbers.is_empty()) {
        (false, true) => Ok(Matcher::AnythingButTexts(texts)),
        (true, false) => Ok(Matcher::AnythingButNumbers(numbers)),
        (true, true) | (false, false) => Err(invalid(
            "Inside anything but list, either all values are number or string, mixed type is not \
             supported",
        )),
    }
}

/// The number as events hold it.
fn exact(number: &Number) -> Result<Decimal, PatternError> {
    let doc = json::to_doc(&Value::Number(number.clone())).ok();
    doc.and_then(|doc| doc.view().as_number()).ok_or_else(|| incomparable(number))
}

/// The number, if AWS compares it by size.
fn comparable(number: &Number) -> Result<Decimal, PatternError> {
    let decimal = exact(number)?;
    if is_double(decimal) { Ok(decimal) } else { Err(incomparable(number)) }
}

fn incomparable(number: &Number) -> PatternError {
    invalid(format!("Cannot compare number : {number}"))
}

#[cfg(test)]
mod tests;
