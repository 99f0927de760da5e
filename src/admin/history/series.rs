//! One name of a device's readings over time, in a bounded number of points. Pure.

use std::collections::VecDeque;

/// Points of one series at most: a day in steps of two minutes, which is what a plot has columns.
pub(super) const POINTS: usize = 720;

/// Below this a series is not thinned any further: it is dropped instead.
pub(super) const FEWEST: usize = 16;

/// Changes of a text or truth value that are kept.
const CHANGES: usize = 200;

/// Bytes of a text that are kept.
const TEXT: usize = 64;

/// Seconds that a point stands for at first; it doubles whenever there are too many points.
const STEP: f64 = 1.0;

/// Some numbers of one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// The time of the newest of them.
    pub(super) time: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) mean: f64,
    /// How many.
    count: u32,
}

impl Point {
    fn of(time: f64, value: f64) -> Self {
        Self {
            time,
            least: value,
            most: value,
            mean: value,
            count: 1,
        }
    }

    fn join(&mut self, other: &Self) {
        let (one, two) = (f64::from(self.count), f64::from(other.count));
        // Weighed first, so that no sum leaves the range of numbers.
        self.mean = self.mean * (one / (one + two)) + other.mean * (two / (one + two));
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
        self.time = self.time.max(other.time);
        // Only for the weights: more than there are numbers for weigh the same.
        self.count = self.count.saturating_add(other.count);
    }
}

/// A value that is no number, since a time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) time: f64,
    pub(super) value: serde_json::Value,
}

/// A series.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: Box<str>,
    pub(super) unit: Option<Box<str>>,
    /// Ascending in time.
    pub(super) points: VecDeque<Point>,
    pub(super) changes: VecDeque<Change>,
    step: f64,
    /// The time of its newest reading.
    pub(super) last: f64,
    /// What that one said, of all that say something.
    pub(super) newest: serde_json::Value,
}

impl Series {
    pub(super) fn new(name: &str, unit: Option<&str>) -> Self {
        Self {
            name: name.into(),
            unit: unit.map(Into::into),
            points: VecDeque::new(),
            changes: VecDeque::new(),
            step: STEP,
            last: f64::NEG_INFINITY,
            newest: serde_json::Value::Null,
        }
    }

    /// How much there is to thin.
    pub(super) fn size(&self) -> usize {
        self.points.len().max(self.changes.len() / 2)
    }

    /// What it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let texts: usize = self
            .changes
            .iter()
            .map(|change| weight(&change.value))
            .sum();
        200 + self.name.len()
            + weight(&self.newest)
            + self.points.capacity() * size_of::<Point>()
            + self.changes.capacity() * size_of::<Change>()
            + texts
    }

    /// Takes a reading. One that is older than the newest goes to its place as long as that is
    /// among the last few: what waited in a device comes in order, only late.
    pub(super) fn take(&mut self, time: f64, value: &serde_json::Value) {
        if time >= self.last && !value.is_null() {
            self.newest = short(value);
        }
        self.last = self.last.max(time);
        if let Some(number) = value.as_f64().filter(|number| number.is_finite()) {
            return self.number(Point::of(time, number));
        }
        let value = short(value);
        match self.changes.back() {
            Some(last) if last.time > time || last.value == value => return,
            _ => {}
        }
        if self.changes.len() >= CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { time, value });
    }

    fn number(&mut self, point: Point) {
        let mut at = self.points.len();
        while at > 0 && self.points[at - 1].time > point.time {
            at -= 1;
        }
        let stretch = |time: f64| (time / self.step).floor();
        if let Some(before) = at.checked_sub(1).and_then(|at| self.points.get_mut(at))
            && stretch(before.time) == stretch(point.time)
        {
            before.join(&point);
            return;
        }
        self.points.insert(at, point);
        if self.points.len() > POINTS {
            self.thin();
        }
    }

    /// Forgets what is older than `time`.
    pub(super) fn forget_before(&mut self, time: f64) {
        while self.points.front().is_some_and(|point| point.time < time) {
            self.points.pop_front();
        }
        // The last change before it says what held then.
        while self.changes.get(1).is_some_and(|change| change.time < time) {
            self.changes.pop_front();
        }
    }

    /// Half as many points, each of twice the time.
    pub(super) fn thin(&mut self) {
        self.step *= 2.0;
        let mut thinned: VecDeque<Point> = VecDeque::with_capacity(self.points.len() / 2 + 1);
        for point in &self.points {
            match thinned.back_mut() {
                Some(last)
                    if (last.time / self.step).floor() == (point.time / self.step).floor() =>
                {
                    last.join(point);
                }
                _ => thinned.push_back(*point),
            }
        }
        self.points = thinned;
        let half = self.changes.len() / 2;
        if self.changes.len() > CHANGES / 2 {
            self.changes.drain(..half);
            self.changes.shrink_to_fit();
        }
    }
}

fn short(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) if text.len() > TEXT => {
            let mut end = TEXT;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            format!("{}…", &text[..end]).into()
        }
        other => other.clone(),
    }
}

fn weight(value: &serde_json::Value) -> usize {
    value.as_str().map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_day_of_seconds_is_kept_in_so_many_points_with_its_extremes_and_its_mean() {
        let mut series = Series::new("t", Some("Cel"));
        for second in 0..86_400_u32 {
            let value = if second == 40_000 {
                99.0
            } else {
                f64::from(second % 10)
            };
            series.take(1.8e9 + f64::from(second), &json!(value));
            assert!(series.points.len() <= POINTS);
        }
        assert!(series.points.len() > POINTS / 2);
        let most = series
            .points
            .iter()
            .map(|point| point.most)
            .fold(0.0, f64::max);
        assert_eq!(most, 99.0);
        let usual = series.points.iter().filter(|point| point.most < 10.0);
        assert!(
            usual
                .clone()
                .all(|point| point.least == 0.0 && (4.0..5.0).contains(&point.mean))
        );
        let times: Vec<_> = series.points.iter().map(|point| point.time).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        series.forget_before(1.8e9 + 80_000.0);
        assert!(series.points.front().unwrap().time >= 1.8e9 + 80_000.0);
    }

    #[test]
    fn the_largest_numbers_have_a_mean() {
        let mut series = Series::new("t", None);
        for value in [f64::MAX, f64::MAX, f64::MIN] {
            series.take(5.1, &json!(value));
        }
        let point = series.points[0];
        assert!(point.mean.is_finite() && point.least == f64::MIN && point.most == f64::MAX);
    }

    #[test]
    fn texts_and_truths_are_kept_where_they_change() {
        let mut series = Series::new("door", None);
        for (time, open) in [
            (1.0, true),
            (2.0, true),
            (3.0, false),
            (4.0, false),
            (5.0, true),
        ] {
            series.take(time, &json!(open));
        }
        let times: Vec<_> = series.changes.iter().map(|change| change.time).collect();
        assert_eq!(times, [1.0, 3.0, 5.0]);
        series.take(6.0, &json!("ä".repeat(500)));
        let kept = series
            .changes
            .back()
            .unwrap()
            .value
            .as_str()
            .unwrap()
            .to_owned();
        assert!(kept.len() <= TEXT + 4 && kept.ends_with('…'), "{kept}");
        for n in 0..10_000 {
            series.take(7.0 + f64::from(n), &json!(n.to_string()));
        }
        assert_eq!(series.changes.len(), CHANGES);
    }

    #[test]
    fn what_comes_late_goes_to_its_place() {
        let mut series = Series::new("t", None);
        for time in [10.0, 12.0, 11.0, 13.0] {
            series.take(time, &json!(time));
        }
        let times: Vec<_> = series.points.iter().map(|point| point.time).collect();
        assert_eq!(times, [10.0, 11.0, 12.0, 13.0]);
        // What came late is not what holds now, nor is a sum without a value.
        series.take(12.5, &json!("late"));
        series.take(14.0, &serde_json::Value::Null);
        assert_eq!(series.newest, json!(13.0));
    }
}
