//! `RuleIndex`: which of many patterns match an event.
//!
//! Promise: the cost of an event grows with the rules that could match, not with all rules.

use std::collections::BTreeMap;

use super::{CompiledPattern, Field, FieldName, Paths, Place, Seen};
use crate::node::{EventView, NodeKind};

/// How often a [`RuleIndex`] splits rules by text: source, detail type and one field more. Each
/// further split multiplies the buckets that a pattern with several values appears in.
const SPLITS_MAX: usize = 3;
/// Many patterns, arranged so that an event meets only those that could match.
#[derive(Clone, Debug)]
pub struct RuleIndex {
    patterns: Vec<CompiledPattern>,
    /// What all of them ask for, and where the fields of each end there.
    paths: Paths,
    ends: Vec<Vec<usize>>,
    pub(super) root: Bucket,
}

impl RuleIndex {
    /// An index over these patterns; they are known by their position.
    pub fn new(patterns: Vec<CompiledPattern>) -> RuleIndex {
        let mut paths = Paths::default();
        let mut ends = Vec::with_capacity(patterns.len());
        for pattern in &patterns {
            ends.push(pattern.fields.iter().map(|field| paths.add(&field.name)).collect());
        }
        let root = Bucket::new(&patterns, (0..patterns.len()).collect(), &[], &mut paths);
        RuleIndex { patterns, paths, ends, root }
    }

    /// Appends the positions of all patterns that match, ascending.
    pub fn matching(&self, event: &EventView<'_>, found: &mut Vec<usize>) {
        let start = found.len();
        self.collect(&self.root, &mut Seen::new(&self.paths, event), found);
        found[start..].sort_unstable();
        // Several texts in one list can lead to one rule several times.
        let (mut at, mut last) = (0, None);
        found.retain(|&rule| {
            at += 1;
            at <= start || last.replace(rule) != Some(rule)
        });
    }

    fn collect(&self, bucket: &Bucket, seen: &mut Seen<'_, '_>, found: &mut Vec<usize>) {
        match bucket {
            Bucket::Rules(rules) => {
                for Left { rule, fields } in rules {
                    if self.patterns[*rule].holds(fields, &self.ends[*rule], seen) {
                        found.push(*rule);
                    }
                }
            }
            Bucket::Split { name, end, by_text, rest } => {
                let place = seen.at(*end);
                let is_plain = !matches!(place, Place::InList) && !seen.joins(*end);
                if is_plain {
                    if let Place::At(_, NodeKind::Str(text)) = place
                        && let Some(bucket) = by_text.get(text)
                    {
                        self.collect(bucket, seen, found);
                    }
                } else {
                    let event = *seen.event();
                    name.values(&event, &mut Vec::new(), |value, _| {
                        if let NodeKind::Str(text) = value
                            && let Some(bucket) = by_text.get(text)
                        {
                            self.collect(bucket, seen, found);
                        }
                        false
                    });
                }
                self.collect(rest, seen, found);
            }
        }
    }
}

/// What is left of a rule where the way through an index ends.
#[derive(Clone, Debug)]
pub(super) struct Left {
    pub(super) rule: usize,
    /// Its fields that are not decided on the way, in the order they are looked at.
    fields: Vec<usize>,
}

impl Left {
    /// The envelope has one value of each name, so a text found on the way decides the field. Below
    /// it there may be several, and which of them holds is decided with the other fields.
    fn of(pattern: &CompiledPattern, rule: usize, decided: &[&str]) -> Left {
        let is_left = |field: &usize| {
            let name = &pattern.fields[*field].name;
            name.depth() > 1 || !decided.contains(&name.joined.as_str())
        };
        Left { rule, fields: pattern.order.iter().copied().filter(is_left).collect() }
    }
}

/// Rules of an index that could still match.
#[derive(Clone, Debug)]
pub(super) enum Bucket {
    /// To be tried one by one.
    Rules(Vec<Left>),
    /// Told apart by the text of a field: rules that want exactly this text (one that takes several
    /// is in several buckets) and the rest, which want other things there or nothing. `end` is where
    /// the field ends among the paths of the index.
    Split { name: FieldName, end: usize, by_text: BTreeMap<String, Bucket>, rest: Box<Bucket> },
}

impl Bucket {
    fn new(
        patterns: &[CompiledPattern],
        rules: Vec<usize>,
        decided: &[&str],
        paths: &mut Paths,
    ) -> Bucket {
        let Some(name) = best_split(patterns, &rules, decided) else {
            let left = |rule| Left::of(&patterns[rule], rule, decided);
            return Bucket::Rules(rules.into_iter().map(left).collect());
        };
        let mut by_text: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut rest = Vec::new();
        for rule in rules {
            match patterns[rule].field(name).and_then(Field::exact_texts) {
                Some(texts) => {
                    texts.into_iter().for_each(|text| by_text.entry(text).or_default().push(rule));
                }
                None => rest.push(rule),
            }
        }
        let inner = [decided, &[name]].concat();
        let by_text = by_text
            .into_iter()
            .map(|(text, rules)| (text, Bucket::new(patterns, rules, &inner, paths)))
            .collect();
        let rest = Box::new(Bucket::new(patterns, rest, decided, paths));
        let name = FieldName::new(name.to_string());
        Bucket::Split { end: paths.add(&name), name, by_text, rest }
    }
}

/// The field by whose text to tell these rules apart next: source, detail type, or the one that
/// most of them constrain; `None` when no two constrain the same.
fn best_split<'p>(
    patterns: &'p [CompiledPattern],
    rules: &[usize],
    decided: &[&str],
) -> Option<&'p str> {
    if decided.len() == SPLITS_MAX {
        return None;
    }
    let mut sharing: BTreeMap<&'p str, usize> = BTreeMap::new();
    for field in rules.iter().flat_map(|&rule| &patterns[rule].fields) {
        let name = field.name.joined.as_str();
        if field.exact_texts().is_some() && !decided.contains(&name) {
            *sharing.entry(name).or_default() += 1;
        }
    }
    sharing.retain(|_, rules| *rules > 1);
    if let Some(name) = ["source", "detail-type"].into_iter().find(|n| sharing.contains_key(n)) {
        return Some(name);
    }
    sharing.into_iter().max_by_key(|&(_, rules)| rules).map(|(name, _)| name)
}
