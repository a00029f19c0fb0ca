//! When a look at the cloud is worth its call: pure reckoning, without clock, calls or tasks.
//!
//! Somebody waits for something to come to its end in the cloud: a server boots, another one is deleted. He learns it from
//! a listing, and each listing costs a call. [`Experience`] keeps how the last waits of one kind went: at which age the
//! thing was last seen not to be done yet, and at which it was first seen done. From these follow the ages at which to look
//! ([`best_ages`]): those that cost least, if a call is worth a tenth of the usual time.
//!
//! - Of a kind that nothing is known of, the first look is at once, the next ones at growing intervals.
//! - What was done at the first look may have been done for long. So the next look is a little earlier, until one is too
//!   early, and one wait in [`TRIED_EVERY`] begins with a look at half the age, if nobody else has looked so early.
//! - What takes longer than everything that is remembered is looked at at growing intervals, about [`LONGEST_STEP`] at most.
//! - Listings are shared by all who wait. [`Look::apart`] is how far apart they may be: where many wait, a listing has
//!   news for several, and is early enough for each.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use nodepool_common::model::LabelName;

/// So many outcomes of a kind are kept.
const KEPT: usize = 16;
/// What an outcome counts, compared with the one after it.
const OLDER: f64 = 0.85;
/// So many outcomes say when something ends that was not done at the usual time.
const MANY: usize = 3;
/// So many kinds are kept; what nobody has waited for since is forgotten first.
const KINDS: usize = 256;
/// What is done within that time is done at once.
const AT_ONCE: f64 = 0.01;
/// A call is worth this share of the usual time: to know it by so much earlier.
const WORTH: f64 = 0.1;
/// The same in seconds: at least, and at most.
const WORTHS: [f64; 2] = [0.01, 5.0];
/// Seconds between two listings: at least, and at most. Between them it is [`WORTH`].
const APART: [f64; 2] = [0.05, 1.0];
/// Between the first two looks at something of which nothing is known, in seconds.
const FIRST_STEP: f64 = 0.25;
/// Between two looks at something that takes longer than ever before, in seconds; or [`WORTH`].
const LONGEST_STEP: f64 = 5.0;
/// One wait in so many is looked at early, to see whether it is done by then.
const TRIED_EVERY: usize = 8;
/// How early: at this share of the age of the first look that would be worth its call; and what counts as early.
const TRIED_AT: f64 = 0.5;
const TRIED: f64 = 0.75;
/// Where in an interval without any look the end is thought to have been.
const LATE_IN_INTERVAL: f64 = 0.92;
const MIDDLE: f64 = 0.7;
/// The same, for what has failed: that often comes early.
const EARLY_IN_INTERVAL: f64 = 0.1;
/// An interval of this share of the age says well enough when it was.
const NARROW: f64 = 0.125;
/// So does one of that many seconds.
const NARROW_SECONDS: f64 = 0.02;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// That a server of this label and this flavor (its id) has booted.
    Boot(LabelName, String),
    /// That a server is gone.
    Deletion,
}

/// How a wait has ended. Ages: from its beginning to the beginning of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The age at the first look.
    pub first: Duration,
    /// The last age at which it was seen not to be done; `None`: the first look has shown it done.
    pub not_yet: Option<Duration>,
    /// The age at which it was seen done.
    pub done: Duration,
    /// Whether it came to a bad end.
    pub failed: bool,
}

/// When to look next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// At this age.
    pub age: Duration,
    /// At the earliest so long after the last listing.
    pub apart: Duration,
}

/// See the module's comment.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// The oldest first.
    outcomes: VecDeque<Outcome>,
    /// When each of them is thought to have ended.
    ends: Vec<End>,
    /// At which ages to look, in seconds.
    ages: Vec<f64>,
    /// The usual time, in seconds. Before any outcome: the age up to which nothing has ended.
    usual: f64,
}

impl Experience {
    pub fn learn(&mut self, outcome: Outcome) {
        if self.outcomes.len() == KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(outcome);
        self.ends = self.ends();
        let recent = self.recent().filter(|outcome| !outcome.failed).map(|outcome| outcome.done.as_secs_f64());
        self.usual = median(&sorted(recent.collect())).unwrap_or_default();
        self.ages = best_ages(&self.ends, within(self.usual * WORTH, WORTHS));
    }

    /// Something was seen not to be done at that age.
    pub fn not_yet(&mut self, age: Duration) {
        if self.outcomes.is_empty() {
            self.usual = self.usual.max(age.as_secs_f64());
        }
    }

    /// When to look at something that was last seen not to be done at the age of `not_yet`.
    pub fn next(&self, not_yet: Option<Duration>) -> Look {
        let first = self.first();
        let age = match not_yet.map(|age| age.as_secs_f64()) {
            None => first,
            // Somebody else has looked.
            Some(seen) if just_after(seen) < first => first,
            Some(seen) => {
                let planned = self.ages.iter().copied().find(|age| *age > just_after(seen));
                let later = self.ends.iter().filter(|(end, _)| *end > seen).count();
                match planned {
                    Some(planned) if later >= MANY => planned,
                    // Few outcomes do not say that there is nothing between.
                    Some(planned) => planned.min(seen + (seen / 2.0).max(FIRST_STEP)),
                    None => seen + self.step(seen),
                }
            }
        };
        Look { age: seconds(age), apart: seconds(within(self.usual * WORTH, APART)) }
    }

    /// The age at the first look.
    fn first(&self) -> f64 {
        let first = self.ages.first().copied().unwrap_or_default();
        let early = |outcome: &&Outcome| outcome.first.as_secs_f64() <= first * TRIED;
        let is_known = first <= APART[0]
            || self.outcomes.len() < TRIED_EVERY
            || self.recent().filter(early).any(|outcome| outcome.not_yet.is_some());
        if is_known { first } else { first * TRIED_AT }
    }

    fn recent(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().rev().take(TRIED_EVERY)
    }

    /// How long after a look at the age of `seen` to look again, where nothing has ever taken so long.
    fn step(&self, seen: f64) -> f64 {
        let overdue = seen - self.ages.last().copied().unwrap_or_default();
        let least = if self.outcomes.is_empty() { FIRST_STEP } else { within(self.usual * WORTH, APART) };
        (overdue / 2.0).clamp(least, LONGEST_STEP.max(self.usual * WORTH))
    }

    /// When each of the waits is thought to have ended, in order. The last ones count most.
    fn ends(&self) -> Vec<End> {
        let not_yet = |outcome: &Outcome| outcome.not_yet.unwrap_or_default().as_secs_f64();
        let is_narrow = |outcome: &Outcome| {
            let done = outcome.done.as_secs_f64();
            outcome.not_yet.is_some() && done - not_yet(outcome) <= (done * NARROW).max(NARROW_SECONDS)
        };
        let well_known = self.outcomes.iter().filter(|o| is_narrow(o)).map(|o| o.done.as_secs_f64());
        let well_known = sorted(well_known.collect());
        // Nothing was ever seen not to be done: it may be as fast as the fastest, or faster.
        let unseen = self.recent().all(|outcome| outcome.not_yet.is_none());
        let fastest = self.recent().map(|outcome| outcome.done).min().filter(|_| unseen);
        let end = |outcome: &Outcome| {
            let (from, done) = (not_yet(outcome), outcome.done.as_secs_f64());
            if done <= AT_ONCE {
                0.0
            } else if is_narrow(outcome) {
                done
            } else if outcome.failed {
                from + EARLY_IN_INTERVAL * (done - from)
            } else if let Some(likely) = median(among(&well_known, from, done)) {
                likely
            } else {
                let done = fastest.map_or(done, |fastest| fastest.as_secs_f64());
                // What has taken others longer than that takes this one longer, too.
                let others = self.outcomes.iter().map(not_yet).filter(|other| *other < done);
                let from = others.fold(from, f64::max);
                from + if from > 0.0 { MIDDLE } else { LATE_IN_INTERVAL } * (done - from)
            }
        };
        let counts = std::iter::successors(Some(1.0), |counts| Some(counts * OLDER));
        let mut ends: Vec<End> = self.outcomes.iter().rev().map(end).zip(counts).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    }
}

/// When something ends, in seconds, and how likely that is, compared with others.
type End = (f64, f64);

/// The ages at which to look so that the calls and the time by which the end is known too late cost least in all, for
/// things that end at these times (in order). A call costs `call`. All in seconds.
fn best_ages(ends: &[End], call: f64) -> Vec<f64> {
    // From behind: for those that are left when the first `i` were seen, what the best choice costs in the sum, and up to
    // which one the next look reaches.
    let mut best = vec![(0.0, 0); ends.len() + 1];
    let mut left = 0.0;
    for i in (0..ends.len()).rev() {
        left += ends[i].1;
        let (mut late, mut seen, mut choice) = (0.0, ends[i].1, (f64::INFINITY, i + 1));
        for j in i..ends.len() {
            if j > i {
                late += (ends[j].0 - ends[j - 1].0) * seen;
                seen += ends[j].1;
            }
            let cost = call * left + late + best[j + 1].0;
            if cost < choice.0 {
                choice = (cost, j + 1);
            }
        }
        best[i] = choice;
    }
    let mut ages = Vec::new();
    let mut seen = 0;
    while seen < ends.len() {
        seen = best[seen].1;
        ages.push(ends[seen - 1].0);
    }
    ages.dedup();
    ages
}

/// Of numbers in order, those above `from` and up to `to`.
fn among(ordered: &[f64], from: f64, to: f64) -> &[f64] {
    let begin = ordered.partition_point(|number| *number <= from);
    &ordered[begin..ordered.partition_point(|number| *number <= to).max(begin)]
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn median(ordered: &[f64]) -> Option<f64> {
    ordered.get(ordered.len() / 2).copied()
}

fn within(value: f64, [least, most]: [f64; 2]) -> f64 {
    value.clamp(least, most)
}

/// A look before that would show the same.
fn just_after(seen: f64) -> f64 {
    seen * 1.01 + 0.001
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// The experience with each kind, of the cloud as it is configured.
#[derive(Debug, Default)]
pub(super) struct Experiences {
    /// Of which generation of the cloud ([`crate::openstack::api::Cloud::generation`]) it is.
    generation: u64,
    kinds: HashMap<Kind, Kept>,
    learned: u64,
}

#[derive(Debug, Default)]
struct Kept {
    experience: Experience,
    /// When something was last learned of it: a count.
    at: u64,
}

impl Experiences {
    /// See [`Experience::learn`].
    pub fn learn(&mut self, kind: &Kind, generation: u64, outcome: Outcome) {
        self.of(kind, generation).learn(outcome);
    }

    /// `generation`: the cloud's; what is of another one is forgotten.
    fn of(&mut self, kind: &Kind, generation: u64) -> &mut Experience {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        if self.kinds.len() >= KINDS
            && !self.kinds.contains_key(kind)
            && let Some(oldest) = self.kinds.iter().min_by_key(|(_, kept)| kept.at).map(|(kind, _)| kind.clone())
        {
            self.kinds.remove(&oldest);
        }
        self.learned += 1;
        let kept = self.kinds.entry(kind.clone()).or_default();
        kept.at = self.learned;
        &mut kept.experience
    }

    /// See [`Experience::not_yet`].
    pub fn not_yet(&mut self, kind: &Kind, generation: u64, age: Duration) {
        self.of(kind, generation).not_yet(age);
    }

    /// See [`Experience::next`].
    pub fn next(&self, kind: &Kind, generation: u64, not_yet: Option<Duration>) -> Look {
        let known = self.kinds.get(kind).filter(|_| self.generation == generation);
        known.map_or_else(|| Experience::default().next(not_yet), |kept| kept.experience.next(not_yet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Numbers that look random, always the same ones: from 0 to 1.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.0 >> 33).unwrap()) / f64::from(u32::MAX >> 1)
        }
    }

    /// One who waits alone for something that takes so long, in seconds. Returns how many looks it took, and by how much it was known too late.
    fn wait(experience: &mut Experience, takes: f64) -> (u32, f64) {
        let (mut not_yet, mut looks, mut first) = (None, 0, None);
        loop {
            let look = experience.next(not_yet);
            let earliest = not_yet.map_or(Duration::ZERO, |seen: Duration| seen + look.apart);
            let age = look.age.max(earliest);
            looks += 1;
            let first = *first.get_or_insert(age);
            assert!(looks < 1000, "{takes}: {experience:?}");
            if age.as_secs_f64() >= takes {
                experience.learn(Outcome { first, not_yet, done: age, failed: false });
                return (looks, age.as_secs_f64() - takes);
            }
            experience.not_yet(age);
            not_yet = Some(age);
        }
    }

    /// The means over 200 waits, after 20 others.
    fn waits(mut takes: impl FnMut() -> f64) -> (f64, f64) {
        let mut experience = Experience::default();
        let all: Vec<_> = (0..220).map(|_| wait(&mut experience, takes())).skip(20).collect();
        let mean = |sum: f64| sum / 200.0;
        (mean(all.iter().map(|(looks, _)| f64::from(*looks)).sum()), mean(all.iter().map(|(_, late)| late).sum()))
    }

    #[test]
    fn what_always_takes_as_long_is_seen_at_once_with_one_look() {
        for takes in [0.0, 0.001, 0.012, 0.03, 0.1, 0.5, 3.0, 17.0, 40.0, 60.0, 300.0] {
            let (looks, late) = waits(|| takes);
            assert!(looks <= 1.7, "{takes} s: {looks} looks");
            assert!(late <= takes * 0.1 + 0.03, "{takes} s: {late} s too late");
        }
    }

    #[test]
    fn what_varies_is_seen_in_time_with_few_looks() {
        let mut numbers = Numbers(1);
        for usual in [0.5, 5.0, 40.0, 120.0] {
            for spread in [0.02, 0.1, 0.3, 0.8] {
                let (looks, late) = waits(|| usual * (1.0 + spread * (2.0 * numbers.next() - 1.0)));
                assert!(looks <= 1.7 + 1.5 * spread, "{usual} s ± {spread}: {looks} looks");
                assert!(late <= usual * (0.1 + spread / 2.0), "{usual} s ± {spread}: {late} s too late");
            }
        }
    }

    #[test]
    fn what_is_quick_or_slow_by_turns_is_looked_at_for_both() {
        let mut numbers = Numbers(2);
        let (looks, late) = waits(|| if numbers.next() < 0.5 { 10.0 } else { 60.0 });
        assert!(looks <= 4.0 && late <= 12.0, "{looks} looks, {late} s");
    }

    #[test]
    fn a_cloud_that_has_become_faster_or_slower_is_noticed() {
        for (before, after) in [(60.0, 20.0), (20.0, 60.0), (40.0, 0.0), (0.0, 40.0), (0.5, 30.0)] {
            let mut experience = Experience::default();
            let all: Vec<_> = (0..150).map(|i| wait(&mut experience, if i < 50 { before } else { after })).collect();
            let all = &all[50..];
            assert!(all.iter().map(|(looks, _)| *looks).max() < Some(25), "{before} to {after}: {all:?}");
            assert!(all.iter().map(|(looks, _)| *looks).sum::<u32>() < 220, "{before} to {after}: {all:?}");
            assert!(all[70..].iter().all(|(_, late)| *late <= after * 0.1 + 0.1), "{before} to {after}: {all:?}");
        }
    }

    /// Whatever was learnt: a look that has shown nothing is followed by another, not at once and not after long.
    #[test]
    fn whatever_is_known_the_looks_go_on_at_intervals_that_are_bounded() {
        let mut numbers = Numbers(3);
        for _ in 0..2000 {
            let mut experience = Experience::default();
            for _ in 0..20 {
                if numbers.next() < 0.1 {
                    break;
                }
                let done = 10_f64.powf(numbers.next() * 6.0 - 3.0);
                let not_yet = (numbers.next() < 0.5).then(|| seconds(done * numbers.next()));
                experience.learn(Outcome {
                    first: seconds(done * numbers.next()),
                    not_yet,
                    done: seconds(done),
                    failed: numbers.next() < 0.2,
                });
                assert!(experience.outcomes.len() <= KEPT && experience.ages.len() <= KEPT);
            }
            assert!(experience.ages.is_sorted(), "{experience:?}");
            let longest = experience.outcomes.iter().map(|outcome| outcome.done).max().unwrap_or_default();
            let first = experience.next(None);
            assert!(first.age <= longest, "{experience:?}");
            let mut seen = first.age;
            for _ in 0..1000 {
                let look = experience.next(Some(seen));
                let step = look.age.saturating_sub(seen);
                assert!(!step.is_zero() && look.apart >= ms(50) && look.apart <= ms(1000), "{look:?}: {experience:?}");
                let soon = seen + seconds(LONGEST_STEP).max(seen / 2).max(longest / 10);
                assert!(look.age <= longest.max(soon + ms(1)), "{look:?} after {seen:?}: {experience:?}");
                seen = look.age.max(seen + look.apart);
            }
            assert!(seen > longest, "it goes on beyond all that is known");
        }
    }

    #[test]
    fn servers_that_often_fail_early_are_looked_at_early() {
        let mut experience = Experience::default();
        for i in 0..KEPT {
            let failed = i % 4 == 0;
            experience.learn(Outcome {
                first: ms(38_000),
                not_yet: (!failed).then_some(ms(38_000)),
                done: ms(40_000),
                failed,
            });
        }
        assert!(experience.next(None).age < ms(5000), "{experience:?}");
    }

    #[test]
    fn what_nobody_has_waited_for_since_is_forgotten_first_and_all_of_another_cloud() {
        let mut all = Experiences::default();
        let kind = |i: usize| Kind::Boot("l".into(), i.to_string());
        let outcome = Outcome { first: ms(500), not_yet: Some(ms(990)), done: ms(1000), failed: false };
        for i in 0..=KINDS {
            all.learn(&kind(i), 1, outcome);
            all.learn(&Kind::Deletion, 1, outcome);
        }
        assert_eq!(all.kinds.len(), KINDS);
        assert_eq!(all.next(&kind(0), 1, None).age, ms(0));
        assert_eq!(all.next(&kind(KINDS), 1, None).age, ms(1000));
        assert_eq!(all.next(&Kind::Deletion, 1, None).age, ms(1000));
        assert_eq!(all.next(&Kind::Deletion, 2, None).age, ms(0), "settings have changed");
        all.learn(&kind(1), 2, outcome);
        assert_eq!(all.kinds.len(), 1);
    }
}
